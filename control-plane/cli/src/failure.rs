//! Why a command did not do what was asked: the exit code, what happened, and what to do next.
//!
//! Everything a user reads when something fails passes through here, so that each message carries its next step. What went
//! wrong inside the control plane is worded there and only quoted here.

/// The exit codes of ARCHITECTURE: part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 1: the thing asked about is not well.
    NotWell,
    /// 2: the command was used wrongly.
    Usage,
    /// 3: the control plane cannot be reached.
    Unreachable,
}

impl Exit {
    /// The number the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::NotWell => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
        }
    }
}

/// One failure: `error: …` and, where there is a next step, `hint: …`.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Decides the exit code.
    pub exit: Exit,
    /// What happened; may span lines.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// The thing asked about is not well.
    pub fn not_well(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotWell, message: message.into(), hint: None }
    }

    /// The command was used wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hint: None }
    }

    /// The control plane cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unreachable, message: message.into(), hint: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The text for stderr, newline included.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.message.is_empty() {
            text.push_str(&format!("error: {}\n", self.message));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The causes of an error on one line, outermost first, each said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_happened_and_what_to_do_next() {
        let failure = Failure::unreachable("connection refused").hint("start it with: weft up");
        assert_eq!(failure.render(), "error: connection refused\nhint: start it with: weft up\n");
        assert_eq!(failure.exit.code(), 3);
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let inner = std::io::Error::other("refused");
        let outer = std::io::Error::other(inner);
        assert_eq!(chain(&outer), "refused");
    }
}
