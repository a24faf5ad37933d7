//! The process's own log: to standard error, with a filter that can be changed while it runs.

use std::io::IsTerminal as _;
use std::sync::Arc;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

/// Longest filter that is read.
const MOST: usize = 1024;

/// Starts the log; the value sets the filter later.
///
/// # Errors
/// When the filter is none.
pub fn init(filter: &str) -> Result<crate::admin::SetLog, String> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first log.
    let _ = tracing_subscriber::registry().with(layer).with(lines).try_init();
    Ok(Arc::new(move |filter| handle.reload(parse(filter)?).map_err(|e| e.to_string())))
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    if filter.len() > MOST {
        return Err(format!("a log filter has at most {MOST} characters"));
    }
    EnvFilter::builder().parse(filter).map_err(|e| format!("{filter:?} is no log filter: {e}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_filter_that_is_none_is_refused_in_words() {
        assert!(super::parse("info,weft_proxy=debug").is_ok());
        assert!(super::parse("weft_proxy=loud").unwrap_err().contains("no log filter"));
    }
}
