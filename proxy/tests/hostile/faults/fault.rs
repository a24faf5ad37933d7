//! The ways to fail: what the table calls them, and what they need of their callers.

/// A way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Refuses,
    Silent,
    ResetsAtOnce,
    ClosesUnread,
    ClosesUnanswered,
    ResetsUnanswered,
    ResetsInHead,
    ResetsInLength,
    ResetsInChunks,
    StallsInBody,
    TricklesHead,
    TricklesBody,
    RefusesEarly,
    LengthTooShort,
    LengthTooLong,
    LargeHead,
    Garbage,
    NoContinue,
    LateContinue,
    AnswersThenResets,
    Unavailable,
    H2NoSettings,
    H2GoAwayBelow,
    H2GoAwayAbove,
    H2Refuses,
    H2Resets,
    H2ResetsInBody,
    H2Closes,
    TunnelRefuses,
    TunnelNoHello,
    TunnelResets,
    TunnelImpostor,
    TunnelNoSettings,
    TunnelNoAnswer,
    TunnelSays503,
    TunnelSilent,
    TunnelGoAway,
}

use Fault::*;

impl Fault {
    pub const ALL: [Self; 37] = [
        Refuses,
        Silent,
        ResetsAtOnce,
        ClosesUnread,
        ClosesUnanswered,
        ResetsUnanswered,
        ResetsInHead,
        ResetsInLength,
        ResetsInChunks,
        StallsInBody,
        TricklesHead,
        TricklesBody,
        RefusesEarly,
        LengthTooShort,
        LengthTooLong,
        LargeHead,
        Garbage,
        NoContinue,
        LateContinue,
        AnswersThenResets,
        Unavailable,
        H2NoSettings,
        H2GoAwayBelow,
        H2GoAwayAbove,
        H2Refuses,
        H2Resets,
        H2ResetsInBody,
        H2Closes,
        TunnelRefuses,
        TunnelNoHello,
        TunnelResets,
        TunnelImpostor,
        TunnelNoSettings,
        TunnelNoAnswer,
        TunnelSays503,
        TunnelSilent,
        TunnelGoAway,
    ];

    /// As the table names it.
    pub const fn name(self) -> &'static str {
        match self {
            Refuses => "refuses the connection",
            Silent => "accepts and stays silent",
            ResetsAtOnce => "resets every connection at once",
            ClosesUnread => "closes every connection at once",
            ClosesUnanswered => "reads the request and closes",
            ResetsUnanswered => "reads the request and resets",
            ResetsInHead => "resets within the head of its answer",
            ResetsInLength => "resets within a body with a length",
            ResetsInChunks => "resets within a chunked body",
            StallsInBody => "stalls within the body",
            TricklesHead => "sends its head a byte at a time",
            TricklesBody => "sends its body a byte at a time",
            RefusesEarly => "answers 413 before it has read the body, and closes",
            LengthTooShort => "sends more than its Content-Length",
            LengthTooLong => "sends less than its Content-Length, and closes",
            LargeHead => "sends a head of 1 MiB",
            Garbage => "sends what is not HTTP",
            NoContinue => "never says 100 Continue",
            LateContinue => "says 100 Continue twice and late",
            AnswersThenResets => "answers and resets",
            Unavailable => "answers 503",
            H2NoSettings => "h2: withholds its SETTINGS",
            H2GoAwayBelow => "h2: GOAWAY below the call",
            H2GoAwayAbove => "h2: GOAWAY above the call, and the answer",
            H2Refuses => "h2: REFUSED_STREAM once",
            H2Resets => "h2: resets the call",
            H2ResetsInBody => "h2: resets within the body",
            H2Closes => "h2: closes with the call in flight",
            TunnelRefuses => "its sidecar refuses the connection",
            TunnelNoHello => "its sidecar never answers the ClientHello",
            TunnelResets => "its sidecar resets within the TLS handshake",
            TunnelImpostor => "another identity answers for its sidecar",
            TunnelNoSettings => "its sidecar withholds its SETTINGS",
            TunnelNoAnswer => "its sidecar never answers the CONNECT",
            TunnelSays503 => "its sidecar refuses the CONNECT",
            TunnelSilent => "its sidecar opens the tunnel, and nothing comes",
            TunnelGoAway => "its sidecar says GOAWAY below the tunnel",
        }
    }

    /// Is it an application, which a sidecar may stand before?
    pub const fn is_plain(self) -> bool {
        !self.is_h2() && !self.is_tunnel()
    }

    /// Bytes of a POST to it.
    pub const fn body(self) -> usize {
        if matches!(self, RefusesEarly) { 200 * 1024 } else { 5 }
    }

    /// Does the caller wait for 100?
    pub const fn expects(self) -> bool {
        matches!(self, NoContinue | LateContinue)
    }

    pub const fn is_h2(self) -> bool {
        matches!(self, H2NoSettings | H2GoAwayBelow | H2GoAwayAbove | H2Refuses | H2Resets | H2ResetsInBody | H2Closes)
    }

    pub const fn is_tunnel(self) -> bool {
        matches!(
            self,
            TunnelRefuses
                | TunnelNoHello
                | TunnelResets
                | TunnelImpostor
                | TunnelNoSettings
                | TunnelNoAnswer
                | TunnelSays503
                | TunnelSilent
                | TunnelGoAway
        )
    }

    /// `weft.v1.Protocol` of the service.
    pub const fn protocol(self) -> &'static str {
        if self.is_h2() { "PROTOCOL_HTTP2" } else { "PROTOCOL_HTTP1" }
    }
}
