//! The function by itself; whole pods and what kubectl and Kubernetes' schemas say of them are in `integration/tests/injection`.

use super::*;
use serde_json::json;

fn pod() -> Value {
    json!({
        "metadata": {"name": "cart", "namespace": "shop", "labels": {"app": "cart"}},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "shop/migrate:1"}],
            "containers": [{
                "name": "web", "image": "shop/cart:1",
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 3},
                "livenessProbe": {"exec": {"command": ["true"]}},
            }],
        },
    })
}

fn injected(pod: &Value) -> Value {
    match inject(pod, &Settings::default(), Wish::Everything) {
        Ok(Outcome::Injected(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

fn annotated(name: &str, value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({name: value});
    pod
}

#[test]
fn the_sidecar_comes_before_everything_and_the_application_stays_as_it_is() {
    let out = injected(&pod());
    let names: Vec<_> = out["spec"]["initContainers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, [RULES, SIDECAR, "migrate"]);
    assert_eq!(out["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(out["spec"]["containers"][0]["image"], "shop/cart:1");
    assert_eq!(out["metadata"]["labels"], json!({"app": "cart", REVISION: "default"}));
    let args = out["spec"]["initContainers"][1]["args"].as_array().unwrap();
    for arg in ["--port=8080:http", "--port=9090:detect", "--app-probe=web/readinessProbe=http://127.0.0.1:8080/ready"]
    {
        assert!(args.contains(&arg.into()), "{arg}: {args:?}");
    }
    assert_eq!(
        out["spec"]["containers"][0]["readinessProbe"],
        json!({"httpGet": {"path": "/app-probe/web/readinessProbe", "port": 15021}, "periodSeconds": 3})
    );
    assert_eq!(out["spec"]["containers"][0]["livenessProbe"], json!({"exec": {"command": ["true"]}}));
}

#[test]
fn injecting_twice_is_injecting_once_and_taking_it_back_leaves_what_was() {
    let out = injected(&pod());
    assert_eq!(inject(&out, &Settings::default(), Wish::Everything), Ok(Outcome::Unchanged));
    assert_eq!(uninject(&out).unwrap(), Some(pod()));
    assert_eq!(uninject(&pod()).unwrap(), None);
    let template = json!({"spec": {"containers": [{"name": "job", "image": "shop/job:1"}]}});
    assert_eq!(uninject(&injected(&template)).unwrap(), Some(template));
    // Another version of the sidecar takes its place.
    let fewer = Settings { memory_limit: String::new(), ..Settings::default() };
    let Ok(Outcome::Injected(next)) = inject(&out, &fewer, Wish::Everything) else { panic!("not injected anew") };
    assert_eq!(next["spec"]["initContainers"][1]["resources"].get("limits"), None);
    let newer = Settings { image: "weft-proxy:next".into(), ..Settings::default() };
    let Ok(Outcome::Injected(next)) = inject(&out, &newer, Wish::Everything) else { panic!("not injected anew") };
    assert_eq!(next["spec"]["initContainers"][1]["image"], "weft-proxy:next");
    assert_eq!(next["spec"]["initContainers"].as_array().unwrap().len(), 3);
    assert_eq!(uninject(&next).unwrap(), Some(pod()));
}

#[test]
fn what_an_api_server_completes_between_two_calls_of_the_webhook_stays() {
    let mut out = injected(&pod());
    let token = json!({"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    for container in out["spec"]["initContainers"].as_array_mut().unwrap() {
        container["terminationMessagePath"] = "/dev/termination-log".into();
        let mounts = container.as_object_mut().unwrap().entry("volumeMounts").or_insert_with(|| json!([]));
        mounts.as_array_mut().unwrap().push(token.clone());
    }
    out["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access-x7k2p", "projected": {"sources": []}}));
    out["spec"]["volumes"][1]["projected"]["defaultMode"] = 420.into();
    assert_eq!(inject(&out, &Settings::default(), Wish::Everything), Ok(Outcome::Unchanged));
    // A container that another webhook adds meanwhile has its probes asked through the sidecar too.
    out["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "extra", "image": "x", "livenessProbe": {"tcpSocket": {"port": 7000}}}));
    let Ok(Outcome::Injected(again)) = inject(&out, &Settings::default(), Wish::Everything) else {
        panic!("unchanged")
    };
    assert_eq!(again["spec"]["containers"][1]["livenessProbe"]["httpGet"]["port"], 15021);
    assert_eq!(inject(&again, &Settings::default(), Wish::Everything), Ok(Outcome::Unchanged));
}

#[test]
fn who_gets_none_hears_why() {
    let skip = |pod: &Value, wish| match inject(pod, &Settings::default(), wish) {
        Ok(Outcome::Skipped(skip)) => skip.to_string(),
        other => panic!("{other:?}"),
    };
    let everything = Wish::Everything;
    assert!(skip(&annotated(WISH, "disabled"), Wish::NamespaceEnabled).starts_with("the pod says"));
    assert!(skip(&pod(), Wish::NamespaceDisabled).starts_with("the namespace says"));
    assert!(skip(&pod(), Wish::NobodyAsked).starts_with("neither"));
    let with = |pointer: &str, value: Value| {
        let mut pod = pod();
        pod["spec"][pointer] = value;
        pod
    };
    assert!(skip(&with("hostNetwork", true.into()), everything).starts_with("spec.hostNetwork"));
    assert!(skip(&with("os", json!({"name": "windows"})), everything).contains("windows"));
    assert!(skip(&with("containers", json!([{"name": "istio-proxy"}])), everything).contains("istio-proxy"));
    // A pod's own word goes before its namespace's.
    let asked = inject(&annotated(WISH, "enabled"), &Settings::default(), Wish::NamespaceDisabled);
    assert!(matches!(asked, Ok(Outcome::Injected(_))), "{asked:?}");
}

#[test]
fn mistakes_are_refused_with_their_field() {
    let refused = |pod: &Value| inject(pod, &Settings::default(), Wish::Everything).unwrap_err().to_string();
    for (name, value, why) in [
        ("config.weft.mesh/proxy-cpu-reqest", "10m", "there is no such setting"),
        ("config.weft.mesh/proxy-cpu-request", "lots", "is no quantity"),
        ("config.weft.mesh/proxy-uid", "0", "is no number from 1"),
        ("config.weft.mesh/exclude-inbound-ports", "80,http", "\"http\" is no number"),
        ("config.weft.mesh/rewrite-probes", "no", "neither true nor false"),
        ("config.weft.mesh/interception-mode", "tproxy", "neither REDIRECT nor TPROXY"),
        ("weft.mesh/inject", "yes", "neither enabled nor disabled"),
    ] {
        let text = refused(&annotated(name, value));
        assert!(text.contains(name) && text.contains(why), "{text}");
    }
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod["spec"]);
        refused(&pod)
    };
    let text = with(&|spec| spec["containers"][0]["securityContext"] = json!({"runAsUser": 15000}));
    assert!(text.starts_with("spec.containers[0].securityContext.runAsUser: 15000"), "{text}");
    let text = with(&|spec| spec["containers"][0]["ports"][1]["containerPort"] = 15021.into());
    assert!(text.starts_with("spec.containers[0].ports[1].containerPort: 15021"), "{text}");
    let text = with(&|spec| spec["initContainers"][0]["name"] = SIDECAR.into());
    assert!(text.starts_with("spec.initContainers[0].name"), "{text}");
    let text = with(&|spec| spec["containers"][0]["readinessProbe"]["httpGet"]["port"] = "htpt".into());
    assert!(text.starts_with("spec.containers[0].readinessProbe.httpGet.port: \"htpt\""), "{text}");
    assert!(with(&|spec| spec["containers"] = json!([])).starts_with("spec.containers"));
}

#[test]
fn annotations_go_before_the_installation() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "config.weft.mesh/exclude-outbound-ports": "3306, 5432",
        "config.weft.mesh/exclude-inbound-ports": "8080",
        "config.weft.mesh/proxy-memory-limit": "64Mi",
        "config.weft.mesh/proxy-uid": "2102",
        "other.example.com/thing": "kept",
    });
    let out = injected(&pod);
    let rules = out["spec"]["initContainers"][0]["args"].to_string();
    assert!(rules.contains(r#""--exclude-outbound-ports","3306,5432""#) && rules.contains("2102"), "{rules}");
    let sidecar = &out["spec"]["initContainers"][1];
    assert_eq!(sidecar["resources"]["limits"], json!({"memory": "64Mi"}));
    assert_eq!(sidecar["securityContext"]["runAsUser"], 2102);
    // Not captured: asked directly, as before.
    assert_eq!(out["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], "http");
    assert_eq!(uninject(&out).unwrap(), Some(pod));
}

#[test]
fn tproxy_gives_the_sidecar_the_one_capability_that_it_takes_and_tells_packets_by_their_mark() {
    let mut pod = annotated("config.weft.mesh/interception-mode", "TPROXY");
    // The sidecar's own user means nothing then.
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 15000});
    let out = injected(&pod);
    let rules = &out["spec"]["initContainers"][0];
    assert_eq!(rules["args"], json!(["intercept", "install", "--proxy-mark", "--inbound-mode", "tproxy"]));
    let sidecar = &out["spec"]["initContainers"][1];
    let security = &sidecar["securityContext"];
    assert_eq!(security["capabilities"], json!({"add": ["NET_ADMIN"], "drop": ["ALL"]}));
    assert_eq!((&security["runAsUser"], &security["allowPrivilegeEscalation"]), (&json!(0), &json!(false)));
    let args = sidecar["args"].to_string();
    assert!(args.contains("--inbound-mode=tproxy") && !args.contains("--exempt-uid"), "{args}");
    assert_eq!(uninject(&out).unwrap(), Some(pod.clone()));
    pod["metadata"]["annotations"]["config.weft.mesh/intercept-inbound"] = "false".into();
    let text = inject(&pod, &Settings::default(), Wish::Everything).unwrap_err().to_string();
    assert!(text.starts_with("metadata.annotations[config.weft.mesh/interception-mode]: TPROXY is a way"), "{text}");
}

#[test]
fn pods_are_found_in_what_makes_them() {
    let of =
        |version: &str, kind: &str| templates(&json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}));
    assert_eq!(of("v1", "Pod")[0].pointer, "");
    assert_eq!(of("apps/v1", "Deployment")[0].pointer, "/spec/template");
    assert_eq!(of("batch/v1", "CronJob")[0].pointer, "/spec/jobTemplate/spec/template");
    assert_eq!(of("v1", "Service"), []);
    assert_eq!(of("example.com/v1", "Deployment"), []);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service"}, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "once-"}}]});
    let found = templates(&list);
    assert_eq!((found[0].pointer.as_str(), found[0].of.as_str()), ("/items/1/spec/template", "Job/once-"));
}
