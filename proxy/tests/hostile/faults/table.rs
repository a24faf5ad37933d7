//! What callers see of each fault, in the order of the policies. The book shows the same tables.

use super::fault::Fault;

/// A status with its `weft-error`, or `cut` for an answer that broke off; ×n where the request was executed n times. With a second endpoint it
/// is what the call saw that met the fault first. Where there are several, a race decides between them,
/// and how often the request was executed.
#[rustfmt::skip]
pub const TABLE: &[(Fault, [&str; 8])] = &[
    (Fault::Refuses, ["502 `connect-failed`", "502 `connect-failed`", "502 `connect-failed`", "502 `connect-failed`", "200", "502 `connect-failed`", "200", "200"]),
    (Fault::Silent, ["504 `request-timeout`", "504 `request-timeout`", "504 `try-timeout` ×3", "504 `request-timeout`", "200 ×2", "504 `request-timeout`", "504 `request-timeout`", "200 ×2"]),
    (Fault::ResetsAtOnce, ["502 `connect-failed` or `upstream-reset` or `upstream-closed`", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "200", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "200 or 502 `connect-failed` or `upstream-reset` or `upstream-closed`", "200"]),
    (Fault::ClosesUnread, ["502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "200", "502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "200"]),
    (Fault::ClosesUnanswered, ["502 `upstream-closed`", "502 `upstream-closed` ×3", "502 `upstream-closed` ×3", "502 `upstream-closed` ×3", "200 ×2", "502 `upstream-closed`", "502 `upstream-closed`", "200 ×2"]),
    (Fault::ResetsUnanswered, ["502 `upstream-reset`", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "200 ×2", "502 `upstream-reset`", "502 `upstream-reset`", "200 ×2"]),
    (Fault::ResetsInHead, ["502 `upstream-reset`", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "200 ×2", "502 `upstream-reset`", "502 `upstream-reset`", "200 ×2"]),
    (Fault::ResetsInLength, ["cut"; 8]),
    (Fault::ResetsInChunks, ["cut"; 8]),
    (Fault::StallsInBody, ["cut"; 8]),
    (Fault::TricklesHead, ["504 `request-timeout`", "504 `request-timeout`", "504 `try-timeout` ×3", "504 `request-timeout`", "200 ×2", "504 `request-timeout`", "504 `request-timeout`", "200 ×2"]),
    (Fault::TricklesBody, ["cut"; 8]),
    (Fault::RefusesEarly, ["413"; 8]),
    (Fault::LengthTooShort, ["200"; 8]),
    (Fault::LengthTooLong, ["cut"; 8]),
    (Fault::LargeHead, ["502 `upstream-protocol`"; 8]),
    (Fault::Garbage, ["502 `upstream-protocol`"; 8]),
    (Fault::NoContinue, ["200"; 8]),
    (Fault::LateContinue, ["200"; 8]),
    (Fault::AnswersThenResets, ["200"; 8]),
    (Fault::Unavailable, ["503", "503 ×3", "503 ×3", "503 ×3", "200 ×2", "503", "503", "200 ×2"]),
    (Fault::H2NoSettings, ["504 `connect-timeout`", "504 `request-timeout` or `connect-timeout`", "504 `try-timeout`", "504 `connect-timeout` or `request-timeout`", "200", "504 `request-timeout` or `connect-timeout`", "200", "200"]),
    (Fault::H2GoAwayBelow, ["502 `refused`", "200", "200", "200", "200", "200", "200", "200"]),
    (Fault::H2GoAwayAbove, ["200"; 8]),
    (Fault::H2Refuses, ["502 `refused`", "200", "200", "200", "200", "200", "200", "200"]),
    (Fault::H2Resets, ["502 `upstream-reset`", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "200 ×2", "502 `upstream-reset`", "502 `upstream-reset`", "200 ×2"]),
    (Fault::H2ResetsInBody, ["cut"; 8]),
    (Fault::H2Closes, ["502 `upstream-closed`", "502 `upstream-closed` ×3", "502 `upstream-closed` ×3", "502 `upstream-closed` ×3", "200 ×2", "502 `upstream-closed`", "502 `upstream-closed`", "200 ×2"]),
    (Fault::TunnelRefuses, ["502 `connect-failed`", "502 `connect-failed`", "502 `connect-failed`", "502 `connect-failed`", "200", "502 `connect-failed`", "200", "200"]),
    (Fault::TunnelNoHello, ["504 `connect-timeout`", "504 `request-timeout` or `connect-timeout`", "504 `try-timeout`", "504 `connect-timeout` or `request-timeout`", "200", "504 `request-timeout` or `connect-timeout`", "200", "200"]),
    (Fault::TunnelResets, ["502 `tls-failed`", "502 `tls-failed`", "502 `tls-failed`", "502 `tls-failed`", "200", "502 `tls-failed`", "200", "200"]),
    (Fault::TunnelImpostor, ["502 `tls-failed`", "502 `tls-failed`", "502 `tls-failed`", "502 `tls-failed`", "200", "502 `tls-failed`", "200", "200"]),
    (Fault::TunnelNoSettings, ["504 `connect-timeout`", "504 `request-timeout` or `connect-timeout`", "504 `try-timeout`", "504 `connect-timeout` or `request-timeout`", "200", "504 `request-timeout` or `connect-timeout`", "200", "200"]),
    (Fault::TunnelNoAnswer, ["504 `connect-timeout`", "504 `request-timeout` or `connect-timeout`", "504 `try-timeout`", "504 `connect-timeout` or `request-timeout`", "200", "504 `request-timeout` or `connect-timeout`", "200", "200"]),
    (Fault::TunnelSays503, ["502 `tunnel-refused`", "502 `tunnel-refused`", "502 `tunnel-refused`", "502 `tunnel-refused`", "200", "502 `tunnel-refused`", "200", "200"]),
    (Fault::TunnelSilent, ["504 `request-timeout`", "504 `request-timeout`", "504 `try-timeout`", "504 `request-timeout`", "200", "504 `request-timeout`", "504 `request-timeout`", "200"]),
    (Fault::TunnelGoAway, ["502 `refused`", "502 `refused`", "502 `refused`", "502 `refused`", "200", "502 `refused`", "200", "200"]),
];

/// The same for applications that have a sidecar of their own, which passes on what it cannot mend.
#[rustfmt::skip]
pub const BEHIND: &[(Fault, [&str; 8])] = &[
    (Fault::Refuses, ["502 `connect-failed`", "502 `connect-failed`", "502 `connect-failed`", "502 `connect-failed`", "200", "502 `connect-failed`", "200", "200"]),
    (Fault::Silent, ["504 `request-timeout`", "504 `request-timeout`", "504 `try-timeout` ×3", "504 `request-timeout`", "200 ×2", "504 `request-timeout`", "504 `request-timeout`", "200 ×2"]),
    (Fault::ResetsAtOnce, ["502 `connect-failed` or `upstream-reset` or `upstream-closed`", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "200", "502 `connect-failed` or `upstream-reset` or `upstream-closed`", "200 or 502 `connect-failed` or `upstream-reset` or `upstream-closed`", "200"]),
    (Fault::ClosesUnread, ["502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "200", "502 `upstream-closed` or `upstream-reset`", "502 `upstream-closed` or `upstream-reset`", "200"]),
    (Fault::ClosesUnanswered, ["502 `upstream-closed`", "502 `upstream-closed` ×3", "502 `upstream-closed` ×3", "502 `upstream-closed` ×3", "200 ×2", "502 `upstream-closed`", "502 `upstream-closed`", "200 ×2"]),
    (Fault::ResetsUnanswered, ["502 `upstream-reset`", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "200 ×2", "502 `upstream-reset`", "502 `upstream-reset`", "200 ×2"]),
    (Fault::ResetsInHead, ["502 `upstream-reset`", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "502 `upstream-reset` ×3", "200 ×2", "502 `upstream-reset`", "502 `upstream-reset`", "200 ×2"]),
    (Fault::ResetsInLength, ["cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "200 or cut", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "200 or cut"]),
    (Fault::ResetsInChunks, ["cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "200 or cut", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "200 or cut"]),
    (Fault::StallsInBody, ["cut"; 8]),
    (Fault::TricklesHead, ["504 `request-timeout`", "504 `request-timeout`", "504 `try-timeout` ×3", "504 `request-timeout`", "200 ×2", "504 `request-timeout`", "504 `request-timeout`", "200 ×2"]),
    (Fault::TricklesBody, ["cut"; 8]),
    (Fault::RefusesEarly, ["413"; 8]),
    (Fault::LengthTooShort, ["200"; 8]),
    (Fault::LengthTooLong, ["cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "200 or cut", "cut or 502 `upstream-reset`", "cut or 502 `upstream-reset`", "200 or cut"]),
    (Fault::LargeHead, ["502 `upstream-protocol`", "502 `upstream-protocol` ×3", "502 `upstream-protocol` ×3", "502 `upstream-protocol` ×3", "200 ×2", "502 `upstream-protocol`", "502 `upstream-protocol`", "200 ×2"]),
    (Fault::Garbage, ["502 `upstream-protocol`", "502 `upstream-protocol` ×3", "502 `upstream-protocol` ×3", "502 `upstream-protocol` ×3", "200 ×2", "502 `upstream-protocol`", "502 `upstream-protocol`", "200 ×2"]),
    (Fault::NoContinue, ["200"; 8]),
    (Fault::LateContinue, ["200"; 8]),
    (Fault::AnswersThenResets, ["200"; 8]),
    (Fault::Unavailable, ["503", "503 ×3", "503 ×3", "503 ×3", "200 ×2", "503", "503", "200 ×2"]),
];
