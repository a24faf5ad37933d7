//! `weft check`: whether the mesh is well, question by question, and what to do where it is not. Exit code 1 when something is not.

use crate::Global;
use crate::apply::conditions::{self, Fate};
use crate::client::Client;
use crate::client::kinds::Kinds;
use crate::failure::{Exit, Failure};
use crate::fleet::{self, Check, Health};
use crate::output::{self, Format};
use serde_json::Value;

/// Flags of `weft check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Asks, prints, and exits accordingly.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let mut health = Health { ok: true, checks: Vec::new() };
    let version: Result<Value, _> = client.read("/version").await;
    let reached = match version {
        Ok(version) => {
            let version = version.get("gitVersion").and_then(Value::as_str).unwrap_or("unknown").to_owned();
            health.checks.push(good("the control plane answers", format!("{} {version}", client.context.server)));
            true
        }
        Err(error) => {
            let failure = error.into_failure("ask for the version");
            if failure.exit != Exit::Unreachable {
                return Err(failure);
            }
            health.checks.push(Check {
                name: "the control plane answers".into(),
                ok: false,
                detail: failure.message.clone(),
                hint: failure.hint.clone(),
            });
            false
        }
    };
    if reached {
        health.checks.push(credentials(&client).await?);
        let of_server = fleet::check(&client).await.map_err(|error| error.into_failure("ask how the mesh is"))?;
        health.checks.extend(of_server.checks);
        // The server counts; what is wrong with each is on the objects.
        let policies = policies(&client).await?;
        if !policies.ok {
            health.checks.push(policies);
        }
    }
    health.ok = health.checks.iter().all(|check| check.ok);
    output::print(&match args.output {
        Format::Json => output::json(&health)?,
        Format::Yaml => output::yaml(&health)?,
        _ => render(&health),
    })?;
    Ok(match (reached, health.ok) {
        (false, _) => Exit::Unreachable.code(),
        (true, false) => Exit::NotWell.code(),
        (true, true) => 0,
    })
}

fn good(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.into(), ok: true, detail: detail.into(), hint: None }
}

async fn credentials(client: &Client) -> Result<Check, Failure> {
    let name = "the kubeconfig is accepted";
    match client.read::<Value>("/api/v1/namespaces?limit=1").await {
        Ok(_) => Ok(good(name, client.context.file.display().to_string())),
        Err(crate::client::Error::Refused(refusal)) => Ok(Check {
            name: name.into(),
            ok: false,
            detail: refusal.describe(),
            hint: Some("use the kubeconfig in the data directory of `weft up`".into()),
        }),
        Err(error) => Err(error.into_failure("list namespaces")),
    }
}

/// Every route and policy is in force.
async fn policies(client: &Client) -> Result<Check, Failure> {
    let kinds = Kinds::discover(client).await?;
    let (mut count, mut refused, mut pending) = (0_u32, Vec::new(), Vec::new());
    for kind in kinds.preferred().filter(|kind| conditions::has_fate(&kind.group, &kind.kind)) {
        let list: Value = client
            .read(&kind.collection(None))
            .await
            .map_err(|error| error.into_failure(&format!("list {}", kind.plural)))?;
        for object in list.get("items").and_then(Value::as_array).into_iter().flatten() {
            count += 1;
            let at = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let name = format!("{} {}/{}", kind.singular, at("/metadata/namespace"), at("/metadata/name"));
            match conditions::fate(object) {
                // What is rolled out is on its way, and ends by itself.
                Fate::InForce(_) | Fate::RollingOut(_) => {}
                Fate::Pending(message) => pending.push(format!("{name}: {message}")),
                Fate::Refused(reason) => refused.push(format!("{name}: {reason}")),
            }
        }
    }
    let name = "policies are in force";
    if refused.is_empty() && pending.is_empty() {
        return Ok(good(name, format!("{count} of {count}")));
    }
    let hint = "see one with: weft describe KIND NAME -n NAMESPACE";
    refused.extend(pending);
    Ok(Check { name: name.into(), ok: false, detail: refused.join("; "), hint: Some(hint.into()) })
}

fn render(health: &Health) -> String {
    let mut text = String::new();
    for check in &health.checks {
        let mark = if check.ok { "ok  " } else { "FAIL" };
        let detail = if check.detail.is_empty() { String::new() } else { format!(": {}", check.detail) };
        text.push_str(&format!("{mark}  {}{detail}\n", check.name));
        if let (false, Some(hint)) = (check.ok, &check.hint) {
            text.push_str(&format!("      hint: {hint}\n"));
        }
    }
    let bad = health.checks.iter().filter(|check| !check.ok).count();
    text.push_str(&if bad == 0 {
        "the mesh is well\n".to_owned()
    } else {
        format!("{bad} of {} are not well\n", health.checks.len())
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_comes_with_what_to_do() {
        let bad = Check {
            name: "sidecars are connected".into(),
            ok: false,
            detail: "1 of 2".into(),
            hint: Some("look".into()),
        };
        let health = Health { ok: false, checks: vec![good("a", "b"), bad] };
        assert_eq!(
            render(&health),
            "ok    a: b\nFAIL  sidecars are connected: 1 of 2\n      hint: look\n1 of 2 are not well\n"
        );
    }
}
