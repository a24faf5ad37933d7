//! CustomResourceDefinitions are what an API server takes (its rules for schemas, and Google's CEL with its types and costs), and what an API
//! server would then refuse is what the embedded API refuses: thousands of objects are asked of both.
//!
//! The definitions themselves are written down in the chart (`integration/tests/install`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use weft_control::{api, kinds, kinds::definition, store};

/// What CEL cannot say, or not for what a rule may cost. An object that is refused for these only is taken by an API server; the control
/// plane says it in the object's `Accepted` condition.
const LEFT: &[&str] = &[
    // Texts in lists in lists in lists: a pattern is all there is room for.
    "AuthorizationPolicy.spec.rules[].from[].identities[]",
    "AuthorizationPolicy.spec.rules[].from[].notIdentities[]",
    "AuthorizationPolicy.spec.rules[].from[].namespaces[]",
    "AuthorizationPolicy.spec.rules[].from[].notNamespaces[]",
    "AuthorizationPolicy.spec.rules[].from[].ipBlocks[]",
    "AuthorizationPolicy.spec.rules[].from[].notIpBlocks[]",
    "AuthorizationPolicy.spec.rules[].to[].hosts[]",
    "AuthorizationPolicy.spec.rules[].to[].notHosts[]",
    "AuthorizationPolicy.spec.rules[].to[].methods[]",
    "AuthorizationPolicy.spec.rules[].to[].notMethods[]",
    "AuthorizationPolicy.spec.rules[].to[].paths[]",
    "AuthorizationPolicy.spec.rules[].to[].notPaths[]",
    "AuthorizationPolicy.spec.rules[].when[].key",
    "AuthorizationPolicy.spec.rules[].when[].values[]",
    "AuthorizationPolicy.spec.rules[].when[].notValues[]",
    // What has to be read to be judged: certificates, key sets, addresses, regular expressions.
    "FederatedTrustDomain.spec.roots",
    "MeshSettings.spec.tracing.endpoint",
    "RateLimitPolicy.spec.limits[].matches[].headers[].value",
    "RateLimitPolicy.spec.limits[].matches[].path.value",
    "RateLimitPolicy.spec.limits[].matches[].queryParams[].value",
    "RequestAuthentication.spec.rules[].jwks",
    "RequestAuthentication.spec.rules[].jwksUri",
    "TrafficPolicy.spec.faults[].matches[].headers[].value",
    "TrafficPolicy.spec.faults[].matches[].path.value",
    "TrafficPolicy.spec.healthCheck.http.host",
];

const TEXTS: &[&str] = &[
    "a",
    "A",
    "a b",
    "a.b",
    "a/b",
    "/a",
    "/a/../b",
    "/a%2fb",
    "*",
    "*a",
    "a*",
    "a*b",
    "x,é",
    "-a",
    "(",
    "GET",
    "get",
    "0s",
    "1ms",
    "999ms",
    "59m",
    "61m",
    "25h",
    "::",
    "2001:db8::9",
    "1::2::3",
    "0.0.0.0",
    "192.0.2.300",
    "224.0.0.1",
    "ff02::1",
    "192.0.2.7:80",
    "192.0.2.7:0",
    "192.0.2.7:65536",
    "[::1]:8080",
    "[::]:80",
    "host:80",
    "spiffe://a/ns/b/sa/c",
    "https://u@h/",
    "https://h/#f",
    "http://h/",
    "HTTPS://h/x?y",
    "ftp://h",
    "Service",
    "Workload",
    "Pod",
    "weft.mesh",
    "In",
    "Exists",
    "Exact",
    "PathPrefix",
    "RegularExpression",
    "Strict",
    "request.headers[]",
    "source.port",
    "destination.port",
    "request.auth.claims[a]",
    "text/plain",
    "a/b\nc",
    "RingHash",
    "Grpc",
    "Http",
    "é",
    "x:y",
    "[",
    "1",
    "65536",
    "//",
    "/a//b",
    "/.",
    "spiffe://a/b//c",
    "request.headers[a b]",
    "http://h:0",
    "-----BEGIN CERTIFICATE-----",
    "[1::2::3]:80",
    "http://[1::2::3]/keys",
];
const NUMBERS: &[i64] = &[0, 1, -1, 3, 100, 101, 200, 204, 503, 1025, 65_535, 65_536, 2_000_000];

/// What an API server says, of definitions and of objects.
fn judge(definitions: &[Value], objects: &[Value]) -> Value {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let python = target.join("tools/cel/bin/python");
    assert!(python.exists(), "{} is missing: run `integration/setup` (make test does)", python.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions/judge.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let question = serde_json::to_vec(&json!({ "definitions": definitions, "objects": objects })).unwrap();
    child.stdin.take().unwrap().write_all(&question).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_definition_is_short_enough_for_kubectl_apply() {
    for definition in definition::all() {
        // It keeps a copy in an annotation, and all of them together may have 256 KiB.
        let name = definition["metadata"]["name"].as_str().unwrap();
        assert!(serde_json::to_string(&definition).unwrap().len() < 200 << 10, "{name}");
    }
}

#[test]
fn an_api_server_takes_every_definition() {
    let definitions = definition::all();
    let said = judge(&definitions, &[]);
    assert_eq!(said["definitions"].as_object().unwrap().len(), 8);
    for (kind, said) in said["definitions"].as_object().unwrap() {
        assert_eq!(said["problems"], json!([]), "{kind}");
        let costs = said["costs"].as_object().unwrap();
        let mut total = 0.0;
        for (rule, cost) in costs {
            // Refused is a rule of more than ten million, and a definition of more than a hundred.
            let cost = cost.as_f64().unwrap();
            assert!(cost < 5e6, "{rule} costs {cost}");
            total += cost;
        }
        assert!(total < 50e6, "{kind} costs {total}");
    }
}

#[test]
fn the_judge_of_definitions_sees_what_is_wrong_with_one() {
    let of = |change: &dyn Fn(&mut Value)| {
        let mut definition =
            definition::all().into_iter().find(|d| d["spec"]["names"]["kind"] == "TrafficPolicy").unwrap();
        change(definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap());
        judge(&[definition], &[])["definitions"]["TrafficPolicy"].clone()
    };
    type Spoiled<'s> = (&'s dyn Fn(&mut Value), &'s str);
    let refused: [Spoiled<'_>; 7] = [
        (&|spec| spec["retry"]["$ref"] = "#/a".into(), "$ref"),
        (&|spec| drop(spec["retry"].as_object_mut().unwrap().remove("type")), "a type is needed"),
        (&|spec| spec["retry"]["additionalProperties"] = json!({"type": "string"}), "exclude each other"),
        (&|spec| spec["retry"]["properties"]["backoff"]["default"] = 7.into(), "default"),
        (&|spec| spec["faults"]["x-kubernetes-list-type"] = "map".into(), "keys belong"),
        (
            &|spec| spec["retry"]["x-kubernetes-validations"] = json!([{"rule": "self.nope == 1", "message": "m"}]),
            "nope",
        ),
        (
            &|spec| spec["retry"]["x-kubernetes-validations"] = json!([{"rule": "self.attempts", "message": "m"}]),
            "no condition",
        ),
    ];
    for (change, word) in refused {
        let problems = of(change)["problems"].to_string();
        assert!(problems.contains(word), "{word}: {problems}");
    }
    // Texts without a bound make a rule dear.
    let dear = of(&|spec| {
        spec["faults"].as_object_mut().unwrap().remove("maxItems");
    });
    let most = dear["costs"].as_object().unwrap().values().filter_map(Value::as_f64).fold(0.0, f64::max);
    assert!(most > 10e6, "{most}");
}

/// Every object that differs from this one in one place.
fn variants(object: &Value) -> Vec<Value> {
    fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, child) in fields {
                    let at = format!("{at}/{name}");
                    all.push(at.clone());
                    pointers(child, &at, all);
                }
            }
            Value::Array(items) => {
                for (i, child) in items.iter().enumerate() {
                    let at = format!("{at}/{i}");
                    all.push(at.clone());
                    pointers(child, &at, all);
                }
            }
            _ => {}
        }
    }
    let mut places = Vec::new();
    pointers(&object["spec"], "/spec", &mut places);
    let mut all = vec![object.clone()];
    for place in &places {
        let mut with = |value: Value| {
            let mut changed = object.clone();
            *changed.pointer_mut(place).unwrap() = value;
            all.push(changed);
        };
        let value = object.pointer(place).unwrap();
        match value {
            Value::String(_) => TEXTS.iter().for_each(|text| with((*text).into())),
            Value::Number(_) => NUMBERS.iter().for_each(|number| with((*number).into())),
            Value::Bool(is) => with((!is).into()),
            Value::Array(items) => {
                with(json!([]));
                with(items.iter().chain(items.first()).cloned().collect());
                with(items.iter().skip(1).cloned().collect());
            }
            Value::Object(_) => with(json!({})),
            Value::Null => {}
        }
        let (parent, name) = place.rsplit_once('/').unwrap();
        let mut without = object.clone();
        if let Some(fields) = without.pointer_mut(parent).unwrap().as_object_mut() {
            fields.remove(name);
            all.push(without);
        }
    }
    let mut named = object.clone();
    named["metadata"]["name"] = "x.y".into();
    all.push(named);
    all
}

fn examples() -> Vec<Value> {
    let text = include_str!("examples.yaml");
    let root = weft_certs::ApiCa::ephemeral(std::time::SystemTime::now()).unwrap().certificate_pem();
    let mut examples: Vec<Value> = serde_saphyr::from_str(text).unwrap();
    for example in &mut examples {
        example["apiVersion"] = "weft.mesh/v1alpha1".into();
        if example["spec"]["roots"] == "ROOT" {
            example["spec"]["roots"] = root.clone().into();
        }
    }
    examples
}

/// Whether the embedded API takes an object, or the fields that it refuses it for, without indices.
async fn embedded(client: &kube::Client, object: &Value) -> BTreeSet<String> {
    let kind = kinds::find_kind("weft.mesh/v1alpha1", object["kind"].as_str().unwrap()).unwrap();
    let place = if kind.namespaced { "namespaces/default/" } else { "" };
    let uri = format!("/apis/weft.mesh/v1alpha1/{place}{}?dryRun=All&fieldValidation=Strict", kind.plural);
    let request = http::Request::post(uri).header("content-type", "application/json");
    match client.request::<Value>(request.body(serde_json::to_vec(object).unwrap()).unwrap()).await {
        Ok(_) => BTreeSet::new(),
        Err(kube::Error::Api(status)) => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            let mut fields: BTreeSet<String> = causes.iter().map(|cause| plain(&cause.field)).collect();
            if fields.is_empty() {
                fields.insert(status.message);
            }
            fields
        }
        Err(error) => panic!("{error}"),
    }
}

/// `spec.rules[7].name` → `spec.rules[].name`
fn plain(field: &str) -> String {
    field.chars().filter(|c| !c.is_ascii_digit() || !field.contains('[')).collect()
}

#[tokio::test]
async fn an_api_server_refuses_what_the_embedded_api_refuses_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Embedded::open(&folder.path().join("weft.redb"), store::Options::default()).unwrap();
    let api = api::Api::open(Arc::new(store), api::Settings::default()).await.unwrap();
    let client = api::client(&api);
    let objects: Vec<Value> = examples().iter().flat_map(variants).collect();
    let said = judge(&definition::all(), &objects);
    let (mut taken, mut refused, mut left) = (0, 0, BTreeMap::<String, usize>::new());
    let mut wrong = Vec::new();
    for (object, said) in objects.iter().zip(said["objects"].as_array().unwrap()) {
        let fields = embedded(&client, object).await;
        match (fields.is_empty(), said.as_array().unwrap().is_empty()) {
            (true, true) => taken += 1,
            (false, false) => refused += 1,
            (true, false) => wrong.push(format!("only an API server refuses {object}: {said}")),
            (false, true) => {
                for field in &fields {
                    let field = format!("{}.{field}", object["kind"].as_str().unwrap());
                    if !LEFT.contains(&field.as_str()) {
                        wrong.push(format!("only the embedded API refuses {object}: {field}"));
                    }
                    *left.entry(field).or_default() += 1;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), objects.len(), wrong[..wrong.len().min(20)].join("\n"));
    println!("{taken} taken, {refused} refused, left to the control plane: {left:?}");
    assert!(taken > 500 && refused > 2000, "{taken} taken, {refused} refused");
    // What is listed as left is so still.
    let listed: BTreeSet<String> = LEFT.iter().map(|field| (*field).to_owned()).collect();
    assert_eq!(left.keys().cloned().collect::<BTreeSet<_>>(), listed);
}
