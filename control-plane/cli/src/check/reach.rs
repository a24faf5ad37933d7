//! The way to the control plane: whether it answers, takes these credentials, is of this version, and has the same time.

use super::Category;
use crate::client::{Client, Error};
use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::time::SystemTime;

/// The first fact: without it nothing else can be known.
pub const ANSWERS: &str = "the control plane answers";
/// Milliseconds by which clocks may differ, and by which tokens and certificates are refused for it.
const SKEW: (u64, u64) = (5_000, 60_000);

/// Whether it answers; and if so, whether it takes the credentials.
pub async fn look(client: &Client, found: &mut Category) -> Result<bool, Failure> {
    match client.read::<Value>("/version").await {
        Ok(version) => {
            let version = version.get("gitVersion").and_then(Value::as_str).unwrap_or("unknown").to_owned();
            found.good(ANSWERS, format!("{} {version}", client.context.server));
        }
        Err(error) => {
            let failure = error.into_failure("ask for the version");
            if failure.exit != Exit::Unreachable {
                return Err(failure);
            }
            found.error(ANSWERS, failure.message.clone(), failure.hint.as_deref().unwrap_or("start it with: weft up"));
            return Ok(false);
        }
    }
    let accepted = "the kubeconfig is accepted";
    match client.read::<Value>("/api/v1/namespaces?limit=1").await {
        Ok(_) => found.good(accepted, client.context.file.display().to_string()),
        Err(Error::Refused(refusal)) => {
            let hint = match refusal.code {
                403 => "bind a role that allows it: `weft user add --help` says how",
                _ => "use the kubeconfig in the data directory of `weft up`",
            };
            found.error(accepted, refusal.describe(), hint);
        }
        Err(error) => return Err(error.into_failure("list namespaces")),
    }
    Ok(true)
}

/// What the answer about the mesh says of its version and time.
pub fn compare(answer: &Value, now: SystemTime, found: &mut Category) {
    let (version, own) = ("this command is of the control plane's version", env!("CARGO_PKG_VERSION"));
    match answer.get("version").and_then(Value::as_str) {
        Some(same) if same == own => found.good(version, own),
        Some(other) => {
            found.warning(
                version,
                format!("it is {own}, the control plane {other}"),
                "use the weft of the control plane",
            );
        }
        None => found.skipped(version, "it does not say its version"),
    }
    let clocks = "the clocks of this machine and the control plane agree";
    let here = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let Some(there) = answer.get("unixMs").and_then(Value::as_u64) else {
        return found.skipped(clocks, "it does not say what time it has");
    };
    let here = u64::try_from(here).unwrap_or(u64::MAX);
    let (apart, side) = (here.abs_diff(there), if there < here { "behind" } else { "ahead" });
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let hint = "synchronise the clocks (NTP): certificates and tokens are judged by them";
    match apart {
        apart if apart > SKEW.1 => found.error(clocks, format!("the control plane is {} {side}", seconds(apart)), hint),
        apart if apart > SKEW.0 => {
            found.warning(clocks, format!("the control plane is {} {side}", seconds(apart)), hint)
        }
        apart => found.good(clocks, format!("within {}", seconds(apart + 100))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn versions_and_clocks_are_compared() {
        let judge = |answer: Value| {
            let mut found = Category::new("control-plane");
            compare(&answer, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000), &mut found);
            found.facts.into_iter().map(|fact| (fact.result, fact.detail)).collect::<Vec<_>>()
        };
        let own = env!("CARGO_PKG_VERSION");
        let same = judge(json!({ "version": own, "unixMs": 1_000_000_020_u64 }));
        assert_eq!((same[0].0, same[1].clone()), (Outcome::Ok, (Outcome::Ok, "within 0.1 s".to_owned())));
        let other = judge(json!({ "version": "9.9.9", "unixMs": 999_990_000 }));
        assert_eq!(other[0].0, Outcome::Warning);
        assert_eq!(other[1], (Outcome::Warning, "the control plane is 10.0 s behind".to_owned()));
        assert_eq!(judge(json!({ "version": own, "unixMs": 2_000_000_000_u64 }))[1].0, Outcome::Error);
        assert!(judge(json!({})).iter().all(|(result, _)| *result == Outcome::Skipped));
    }
}
