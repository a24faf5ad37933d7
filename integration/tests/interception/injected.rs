//! The containers that `weft inject` puts into a pod, run as a kubelet would: their arguments, their user, their capabilities. What a
//! sidecar gets from Kubernetes alone (control plane, token, roots) is left out; the tests have a file of resources instead.

use serde_json::Value;
use std::process::Command;
use weft_integration::rig::{Namespace, binary, program, run};

/// Flags that say where configuration and identity come from. Some take the next word.
const SOURCES: [(&str, bool); 5] = [
    ("--control-plane", true),
    ("--trust-domain", true),
    ("--roots-file", false),
    ("--service-account-token-file", false),
    ("--state-dir", false),
];

/// The two containers of Weft's in a pod.
pub struct Injected {
    rules: Value,
    sidecar: Value,
}

/// A pod with a container `app` that has these ports (`name: number`) and annotations, in YAML's flow style, and what `weft inject` makes of it.
#[track_caller]
pub fn inject(name: &str, annotations: &str, container: &str) -> Injected {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pod.yaml");
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\n\
         spec: {{containers: [{{name: app, image: 'shop/app:1', {container}}}]}}\n"
    );
    std::fs::write(&file, pod).unwrap();
    let out = run(Command::new(binary("weft")).arg("inject").arg(&file)).ok();
    let pod: Value = serde_saphyr::from_str(&out).unwrap();
    let container = |name: &str| {
        let all = pod["spec"]["initContainers"].as_array().unwrap();
        all.iter().find(|container| container["name"] == name).unwrap().clone()
    };
    Injected { rules: container("weft-init"), sidecar: container("weft-proxy") }
}

fn args(container: &Value) -> Vec<String> {
    container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

impl Injected {
    /// The init container.
    pub fn install(&self, namespace: &Namespace) -> Command {
        self.contained(namespace, &self.rules, &args(&self.rules))
    }

    /// The sidecar of the pod `shop/name` at `address`, with `more` in place of what Kubernetes gives it.
    pub fn sidecar(&self, namespace: &Namespace, name: &str, address: &str, more: &[&str]) -> Command {
        let mut all = args(&self.sidecar).into_iter();
        let mut words = Vec::new();
        while let Some(word) = all.next() {
            match SOURCES.iter().find(|(flag, _)| word.split('=').next() == Some(flag)) {
                Some((_, true)) => drop(all.next()),
                Some((_, false)) => {}
                None => words.push(
                    word.replace("$(POD_NAMESPACE)", "shop")
                        .replace("$(SERVICE_ACCOUNT)", name)
                        .replace("$(POD_NAME)", name)
                        .replace("$(POD_IP)", address),
                ),
            }
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        self.contained(namespace, &self.sidecar, &words)
    }

    /// The user that the sidecar runs as.
    pub fn user(&self) -> u64 {
        self.sidecar["securityContext"]["runAsUser"].as_u64().unwrap()
    }

    /// Under the user and with the capabilities of the container's security context, as container runtimes have them.
    fn contained(&self, namespace: &Namespace, container: &Value, words: &[String]) -> Command {
        let security = &container["securityContext"];
        assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert_eq!(security["allowPrivilegeEscalation"], false);
        let added = security["capabilities"]["add"].as_array().cloned().unwrap_or_default();
        let kept: String = added.iter().map(|name| format!(",+{}", name.as_str().unwrap().to_lowercase())).collect();
        let user = security["runAsUser"].as_u64().unwrap();
        let [reuid, regid] =
            [format!("--reuid={user}"), format!("--regid={}", security["runAsGroup"].as_u64().unwrap())];
        let bounding = format!("--bounding-set=-all{kept}");
        let proxy = binary("weft-proxy");
        let mut all: Vec<&str> =
            vec![&reuid, &regid, "--clear-groups", "--inh-caps=-all", &bounding, "--no-new-privs", "--"];
        all.push(proxy.to_str().unwrap());
        all.extend(words.iter().map(String::as_str));
        namespace.command(program("setpriv"), &all)
    }
}
