//! `weft check --pre`, the cluster of the kubeconfig: whether Weft can be installed there, and what is there already. Nothing is changed: the
//! API server is asked what it would allow.

use super::{Category, Fact};
use crate::Global;
use crate::client::kubeconfig;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use weft_control::install::{self, NAMESPACE, Values};

/// The category's name.
pub const CATEGORY: &str = "cluster";
const DEADLINE: Duration = Duration::from_secs(5);
/// The first minor version whose init containers may go on running without a feature gate being set.
const OLDEST: u32 = 29;
/// Words in the names of other meshes' webhooks.
const OTHERS: [&str; 5] = ["istio", "linkerd", "kuma", "consul", "osm"];

/// What is found. `asked`: somebody wants to know of the cluster in particular, so that one that does not answer is an error.
pub async fn facts(global: &Global, asked: bool) -> Vec<Fact> {
    let mut found = Category::new(CATEGORY);
    let name = "the API server answers";
    let no = |found: &mut Category, why: String| {
        if asked {
            found.error(name, why, "name the cluster's kubeconfig with --kubeconfig, or in KUBECONFIG");
        } else {
            found.skipped(name, why);
        }
    };
    let Some(path) = kubeconfig::find(global) else {
        no(&mut found, "there is no kubeconfig".to_owned());
        return found.facts;
    };
    let cluster = match Cluster::open(&path, global.context.clone()).await {
        Ok(cluster) => cluster,
        Err(why) => {
            no(&mut found, format!("{}: {why}", path.display()));
            return found.facts;
        }
    };
    let version = match cluster.get("/version").await {
        Ok(version) => version,
        Err(why) => {
            no(&mut found, why);
            return found.facts;
        }
    };
    if cluster.get("/apis/apps/v1").await.is_err() {
        found.skipped(name, format!("{}: is the resource API of Weft itself, no cluster's", path.display()));
        return found.facts;
    }
    found.good(name, format!("{} {}", path.display(), text(&version["gitVersion"])));
    judge_version(&version, &mut found);
    cluster.rights(&mut found).await;
    cluster.gateway(&mut found).await;
    cluster.others(&mut found).await;
    cluster.security(&mut found).await;
    cluster.installed(&mut found).await;
    found.facts
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn judge_version(version: &Value, found: &mut Category) {
    let name = "Kubernetes is 1.29 or newer";
    let number =
        |field: &str| text(&version[field]).trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    match (number("major"), number("minor")) {
        (Some(1), Some(minor)) if minor < OLDEST => {
            found.error(
                name,
                format!("1.{minor}"),
                "sidecars are init containers that go on running, which it does not know",
            );
        }
        (Some(major), Some(minor)) => found.good(name, format!("{major}.{minor}")),
        _ => found.skipped(name, format!("{} is no version", version["gitVersion"])),
    }
}

struct Cluster(kube::Client);

impl Cluster {
    async fn open(path: &std::path::Path, context: Option<String>) -> Result<Self, String> {
        let read = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(read, &options);
        let mut config = tokio::time::timeout(DEADLINE, config)
            .await
            .map_err(|_| "the credentials could not be had in time".to_owned())?
            .map_err(|error| error.to_string())?;
        config.connect_timeout = Some(DEADLINE);
        config.read_timeout = Some(DEADLINE);
        kube::Client::try_from(config).map(Self).map_err(|error| error.to_string())
    }

    async fn ask(&self, request: http::request::Builder, body: Vec<u8>) -> Result<Value, String> {
        let request = request.body(body).map_err(|error| error.to_string())?;
        match tokio::time::timeout(DEADLINE, self.0.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {DEADLINE:?}")),
        }
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(http::Request::get(path), Vec::new()).await
    }

    /// Objects of a list; none where the kind is not there.
    async fn list(&self, path: &str) -> Result<Vec<Value>, String> {
        Ok(self.get(path).await?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Whether everything of `weft install` may be made.
    async fn rights(&self, found: &mut Category) {
        let name = "this user may install Weft";
        let all = [install::definitions(), install::manifests(&Values::default(), NAMESPACE)].concat();
        let kinds: BTreeSet<(String, String, bool)> = all.iter().map(resource).collect();
        let mut refused = Vec::new();
        for (group, resource, namespaced) in &kinds {
            for verb in ["create", "patch"] {
                let mut attributes = json!({ "verb": verb, "group": group, "resource": resource });
                if *namespaced {
                    attributes["namespace"] = NAMESPACE.into();
                }
                let review = json!({
                    "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                    "spec": { "resourceAttributes": attributes },
                });
                let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
                    .header("content-type", "application/json");
                match self.ask(request, review.to_string().into_bytes()).await {
                    Ok(answer) if answer["status"]["allowed"] == true => {}
                    Ok(_) => {
                        refused.push(format!("{verb} {resource}{}{group}", if group.is_empty() { "" } else { "." }))
                    }
                    Err(why) => return found.skipped(name, why),
                }
            }
        }
        if refused.is_empty() {
            found.good(name, format!("{} kinds", kinds.len()));
        } else {
            found.error(
                name,
                format!("not: {}", refused.join(", ")),
                "ask whoever administers the cluster to install it",
            );
        }
    }

    async fn gateway(&self, found: &mut Category) {
        let name = "the kinds of the Gateway API are there";
        let hint = "services are called without them; routes need them: apply the Gateway API's own manifests, \
                    experimental-install.yaml for TCPRoute and TLSRoute too";
        let all = match self.list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions?limit=2000").await {
            Ok(all) => all,
            Err(why) => return found.skipped(name, why),
        };
        let there = |plural: &str| {
            all.iter().find(|crd| crd["metadata"]["name"] == format!("{plural}.gateway.networking.k8s.io"))
        };
        let Some(routes) = there("httproutes") else { return found.warning(name, "there are none", hint) };
        let said = |what: &str| text(&routes["metadata"]["annotations"][format!("gateway.networking.k8s.io/{what}")]);
        let missing: Vec<&str> = ["grpcroutes", "referencegrants", "tcproutes", "tlsroutes"]
            .into_iter()
            .filter(|plural| there(plural).is_none())
            .collect();
        let detail = format!("{} {}", said("channel"), said("bundle-version")).trim().to_owned();
        if missing.is_empty() {
            found.good(name, detail);
        } else {
            found.good(name, format!("{detail}; not {}", missing.join(", ")).trim_start_matches("; ").to_owned());
        }
    }

    async fn others(&self, found: &mut Category) {
        let name = "no other mesh puts sidecars into pods";
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations?limit=500";
        match self.list(path).await {
            Ok(all) => {
                let names = all.iter().map(|one| text(&one["metadata"]["name"]));
                let theirs: Vec<&str> = names.filter(|name| OTHERS.iter().any(|other| name.contains(other))).collect();
                if theirs.is_empty() {
                    return found.good(name, "");
                }
                let hint = "one pod has one sidecar: a pod that has another's gets none of Weft's. Label a namespace for one of them";
                found.warning(name, theirs.join(", "), hint);
            }
            Err(why) => found.skipped(name, why),
        }
    }

    /// The init container needs a capability that two of the three levels of Pod Security refuse.
    async fn security(&self, found: &mut Category) {
        let name = "namespaces to be injected allow CAP_NET_ADMIN";
        match self.list("/api/v1/namespaces?labelSelector=weft.mesh/inject%3Denabled&limit=500").await {
            Ok(all) => {
                let enforced = |space: &&Value| {
                    matches!(
                        text(&space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]),
                        "baseline" | "restricted"
                    )
                };
                let bad: Vec<&str> =
                    all.iter().filter(enforced).map(|space| text(&space["metadata"]["name"])).collect();
                if bad.is_empty() {
                    return found.good(name, format!("{} labelled", all.len()));
                }
                let hint = "their pods are refused: the label pod-security.kubernetes.io/enforce must be privileged, or absent";
                found.warning(name, bad.join(", "), hint);
            }
            Err(why) => found.skipped(name, why),
        }
    }

    async fn installed(&self, found: &mut Category) {
        let name = "Weft is not there yet, or can be replaced";
        match self.list("/apis/apps/v1/deployments?labelSelector=app.kubernetes.io/name%3Dweft&limit=100").await {
            Ok(all) => {
                let is = |deployment: &Value| {
                    let image = text(&deployment["spec"]["template"]["spec"]["containers"][0]["image"]);
                    let meta = &deployment["metadata"];
                    format!("{}/{} {image}", text(&meta["namespace"]), text(&meta["name"]))
                };
                match all.as_slice() {
                    [] => found.good(name, "not there"),
                    [one] => found.good(name, is(one)),
                    several => {
                        let names: Vec<String> = several.iter().map(is).collect();
                        let hint = "several control planes need revisions of their own: --set revision=NAME";
                        found.warning(name, names.join(", "), hint);
                    }
                }
            }
            Err(why) => found.skipped(name, why),
        }
    }
}

/// Group, resource, and whether it is in a namespace.
fn resource(object: &Value) -> (String, String, bool) {
    let version = text(&object["apiVersion"]);
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let kind = text(&object["kind"]).to_lowercase();
    (group.to_owned(), format!("{kind}s"), object["metadata"]["namespace"].is_string())
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_cluster_without_sidecars_that_go_on_running_is_too_old() {
        let judge = |major: &str, minor: &str| {
            let mut found = Category::new(CATEGORY);
            judge_version(&json!({"major": major, "minor": minor}), &mut found);
            found.facts.remove(0).result
        };
        assert_eq!(judge("1", "28"), Outcome::Error);
        assert_eq!((judge("1", "29"), judge("1", "33+"), judge("2", "0")), (Outcome::Ok, Outcome::Ok, Outcome::Ok));
        assert_eq!(judge("", ""), Outcome::Skipped);
    }
}
