//! The fields of a match, which faults and rate limits have in common: each with a call that is meant with it and not without, or the other
//! way round.

use crate::table::Side;

/// A call.
pub struct Call {
    method: &'static str,
    path: &'static str,
    headers: &'static [&'static str],
}

impl Call {
    /// Makes it.
    pub fn to(&self, side: &Side<'_>) -> weft_integration::rig::stage::Answer {
        side.call(self.method, self.path, self.headers)
    }
}

/// A field of a match; the match without it and with it, or with another value; a call, and whether each means it.
pub struct Matched {
    /// `headers[].name`
    pub field: &'static str,
    /// Without the field, or with another value, and with it.
    pub matches: [&'static str; 2],
    /// The call.
    pub call: Call,
    /// Whether the match without the field means it, and the one with it.
    pub means: [bool; 2],
}

const fn get(path: &'static str) -> Call {
    Call { method: "GET", path, headers: &[] }
}

const fn with(headers: &'static [&'static str]) -> Call {
    Call { method: "GET", path: "/", headers }
}

/// All fields.
pub const MATCHES: [Matched; 9] = [
    Matched {
        field: "method",
        matches: ["{path: {value: /m}}", "{path: {value: /m}, method: PUT}"],
        call: get("/m"),
        means: [true, false],
    },
    Matched {
        field: "path.type",
        matches: ["{path: {value: /m}}", "{path: {type: Exact, value: /m}}"],
        call: get("/m/x"),
        means: [true, false],
    },
    Matched {
        field: "path.value",
        matches: ["{path: {value: /n}}", "{path: {value: /m}}"],
        call: get("/m"),
        means: [false, true],
    },
    Matched {
        field: "headers[].name",
        matches: ["{headers: [{name: x-b, value: v}]}", "{headers: [{name: x-a, value: v}]}"],
        call: with(&["x-a: v"]),
        means: [false, true],
    },
    Matched {
        field: "headers[].value",
        matches: ["{headers: [{name: x-a, value: v}]}", "{headers: [{name: x-a, value: w}]}"],
        call: with(&["x-a: w"]),
        means: [false, true],
    },
    Matched {
        field: "headers[].type",
        matches: [
            "{headers: [{name: x-a, value: v+}]}",
            "{headers: [{name: x-a, value: v+, type: RegularExpression}]}",
        ],
        call: with(&["x-a: vvv"]),
        means: [false, true],
    },
    Matched {
        field: "queryParams[].name",
        matches: ["{queryParams: [{name: b, value: v}]}", "{queryParams: [{name: a, value: v}]}"],
        call: get("/?a=v"),
        means: [false, true],
    },
    Matched {
        field: "queryParams[].value",
        matches: ["{queryParams: [{name: a, value: v}]}", "{queryParams: [{name: a, value: w}]}"],
        call: get("/?a=w"),
        means: [false, true],
    },
    Matched {
        field: "queryParams[].type",
        matches: [
            "{queryParams: [{name: a, value: v+}]}",
            "{queryParams: [{name: a, value: v+, type: RegularExpression}]}",
        ],
        call: get("/?a=vvv"),
        means: [false, true],
    },
];
