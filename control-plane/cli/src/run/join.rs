//! What a workload needs from the control plane before it can join: where that is, a token, and (with an administrator's
//! kubeconfig at hand) the objects it belongs to. Nothing here starts a process.

use super::ports::{self, Port};
use crate::Global;
use crate::client::{Client, Error, encode, kubeconfig};
use crate::failure::{Exit, Failure};
use crate::token::{self, Claims};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a token that `weft run` makes for itself lives, at most: as long as a sidecar that was cut off from the control plane,
/// and forgotten by it, may still register again. It is revoked when the program has ended.
const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// For how many certificates: one would do, if an answer were never lost on its way.
const TOKEN_USES: u32 = 4;
/// How long revoking it may hold up the end.
const REVOKE: Duration = Duration::from_secs(2);

/// Where the secret of a join comes from.
pub enum Source {
    /// A file that somebody gave.
    File(PathBuf),
    /// The environment variable WEFT_JOIN_TOKEN.
    Environment(String),
    /// Made on demand with the kubeconfig at hand.
    Kubeconfig(Box<Client>),
    /// Nowhere: an identity of an earlier run must do.
    Stored,
    /// The sidecar joins otherwise; Services that are missing are made with the kubeconfig, where there is one.
    Given(Option<Box<Client>>),
}

/// For who joins otherwise.
pub fn given(global: &Global) -> Result<Source, Failure> {
    let client = kubeconfig::find(global).map(|_| Client::new(global)).transpose()?;
    Ok(Source::Given(client.map(Box::new)))
}

/// The secret of a join.
pub struct Secret {
    /// What the sidecar presents.
    pub text: String,
    /// Id of a token that we made and that goes with us.
    pub revocable: Option<String>,
}

/// The workload as far as joining is concerned.
pub struct Subject<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Service account.
    pub service_account: &'a str,
    /// Services.
    pub services: &'a [String],
    /// Ports, for Services that are made.
    pub ports: &'a [Port],
}

/// Which source applies: a file, the environment, a kubeconfig, an identity that is there already.
pub fn source(global: &Global, file: Option<&Path>, stored: bool) -> Result<Source, Failure> {
    if let Some(file) = file {
        return if file.is_file() {
            Ok(Source::File(file.to_owned()))
        } else {
            Err(Failure::usage(format!("--join-token-file {}: no such file", file.display()))
                .hint("make one with: weft token create --service NAME -o FILE"))
        };
    }
    if let Ok(token) = std::env::var("WEFT_JOIN_TOKEN")
        && !token.trim().is_empty()
    {
        return Ok(Source::Environment(token.trim().to_owned()));
    }
    if kubeconfig::find(global).is_some() {
        return Ok(Source::Kubeconfig(Box::new(Client::new(global)?)));
    }
    if stored {
        return Ok(Source::Stored);
    }
    Err(Failure::usage("nothing says how to join: no --join-token-file, no $WEFT_JOIN_TOKEN and no kubeconfig").hint(
        "where the control plane runs: weft token create --service NAME -o FILE; then here: --join-token-file FILE --control-plane IP:PORT",
    ))
}

/// Where sidecars reach the control plane: the flag, else what `weft up` wrote beside the kubeconfig.
pub fn control_plane(global: &Global, flag: &[SocketAddr]) -> Result<Vec<SocketAddr>, Failure> {
    if !flag.is_empty() {
        return Ok(flag.to_vec());
    }
    let hint = "name it with --control-plane IP:PORT (the --grpc address of weft up)";
    let Some(kubeconfig) = kubeconfig::find(global) else {
        return Err(Failure::usage("nothing says where the control plane is").hint(hint));
    };
    let file = kubeconfig.with_file_name("endpoints.json");
    let text = std::fs::read_to_string(&file).map_err(|error| {
        Failure::usage(format!("nothing says where the control plane is: {}: {error}", file.display())).hint(hint)
    })?;
    serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| Some(vec![value.get("grpc")?.as_str()?.parse().ok()?]))
        .ok_or_else(|| Failure::usage(format!("{} holds no gRPC address", file.display())).hint(hint))
}

/// Makes what is missing: namespace, service account, services. What exists is left as it is.
pub async fn ensure(client: &Client, subject: &Subject<'_>) -> Result<(), Failure> {
    let namespace = encode(subject.namespace);
    let object = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    create(client, "/api/v1/namespaces", subject.namespace, &object("Namespace", subject.namespace)).await?;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    create(client, &accounts, subject.service_account, &object("ServiceAccount", subject.service_account)).await?;
    let services = format!("/api/v1/namespaces/{namespace}/services");
    for name in subject.services {
        let mut service = object("Service", name);
        if let Some(object) = service.as_object_mut() {
            object.insert("spec".into(), json!({"ports": ports::service_ports(subject.ports)}));
        }
        if let Some(existing) = create(client, &services, name, &service).await? {
            for port in subject.ports.iter().filter(|port| !leads_to(&existing, port)) {
                eprintln!(
                    "warning: service {}/{name} exists and no port of it leads to port {} ({}) of this workload",
                    subject.namespace, port.app, port.name
                );
            }
        }
    }
    Ok(())
}

/// Whether some port of the Service has this port of the workload as its target, by the same rules as the control plane.
fn leads_to(service: &Value, port: &Port) -> bool {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    ports.into_iter().flatten().any(|entry| {
        let number = entry.get("port").and_then(Value::as_u64);
        match entry.get("targetPort") {
            Some(Value::String(name)) => *name == port.name,
            Some(Value::Number(target)) if target.as_u64() != number => target.as_u64() == Some(port.app.into()),
            _ => {
                number == Some(port.app.into()) || entry.get("name").and_then(Value::as_str) == Some(port.name.as_str())
            }
        }
    })
}

/// Creates an object; gives back the one that was there instead.
async fn create(client: &Client, collection: &str, name: &str, object: &Value) -> Result<Option<Value>, Failure> {
    let path = format!("{collection}/{}", encode(name));
    let what = format!("look at {path}");
    match client.read(&path).await {
        Ok(existing) => return Ok(Some(existing)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into_failure(&what)),
    }
    match client.create::<Value>(&format!("{collection}?fieldManager=weft-run"), object).await {
        Ok(_) => Ok(None),
        // Another `weft run` was faster: then it is there.
        Err(error) if error.is_already_exists() => {
            client.read(&path).await.map(Some).map_err(|e| e.into_failure(&what))
        }
        Err(Error::Refused(refusal)) => Err(Failure::not_well(format!("create {path}: {}", refusal.describe()))
            .hint("create what the workload belongs to with weft apply, and give --join-token-file")),
        Err(error) => Err(error.into_failure(&what)),
    }
}

/// Gets a secret that is fresh enough for one start of the sidecar. `None`: the stored identity must do.
pub async fn token(source: &Source, subject: &Subject<'_>, stored: bool) -> Result<Option<Secret>, Failure> {
    match source {
        Source::File(file) => std::fs::read_to_string(file)
            .map(|text| Some(Secret { text: text.trim().to_owned(), revocable: None }))
            .map_err(|error| Failure::usage(format!("--join-token-file {}: {error}", file.display()))),
        Source::Environment(token) => Ok(Some(Secret { text: token.clone(), revocable: None })),
        Source::Stored | Source::Given(_) => Ok(None),
        Source::Kubeconfig(client) => {
            let claims = Claims {
                namespace: subject.namespace,
                service_account: subject.service_account,
                services: subject.services,
                ttl: TOKEN_LIFE,
                uses: Some(TOKEN_USES),
            };
            match token::make(client, &claims).await {
                Ok(made) => Ok(Some(Secret { text: made.token, revocable: Some(made.id) })),
                // The control plane is away, and we have been here before: last-known-good is what it is for.
                Err(failure) if stored && failure.exit == Exit::Unreachable => Ok(None),
                Err(failure) => Err(failure),
            }
        }
    }
}

/// Ends a token that we made. What cannot be reached now forgets it by itself.
pub async fn revoke(source: &Source, id: &str, namespace: &str) {
    if let Source::Kubeconfig(client) = source {
        let _ = tokio::time::timeout(REVOKE, token::revoke(client, id, Some(namespace))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_leads_to_a_port_by_name_or_by_number() {
        let port: Port = "http=8080".parse().unwrap();
        let service = |entry: Value| json!({"spec": {"ports": [entry]}});
        assert!(leads_to(&service(json!({"port": 80, "targetPort": "http"})), &port));
        assert!(leads_to(&service(json!({"port": 80, "targetPort": 8080})), &port));
        assert!(leads_to(&service(json!({"port": 8080})), &port));
        assert!(leads_to(&service(json!({"name": "http", "port": 9090})), &port));
        assert!(!leads_to(&service(json!({"port": 80, "targetPort": "grpc"})), &port));
        assert!(!leads_to(&service(json!({"port": 80})), &port));
    }
}
