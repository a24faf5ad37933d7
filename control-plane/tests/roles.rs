//! Roles, as people with a client certificate or a token meet them: what they may do and no more, from the moment that somebody says so to the
//! moment that somebody says otherwise.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::Server;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use weft_certs::ca::{Credential, TokenKey, Vault};
use weft_certs::tls::api_client_config;
use weft_control::api::accounts::Accounts;
use weft_control::api::record::Record;

const PATIENCE: Duration = Duration::from_secs(20);
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ISSUER: &str = "https://weft-control.weft-system.svc.cluster.local";

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

/// A server that makes tokens and keeps a record.
async fn start() -> Server {
    let server = Server::start().await;
    let key = TokenKey::open(&server.dir.path().join("api/tokens.pem"), &Vault::default()).unwrap();
    server.api.issue_tokens(Accounts::new(key, ISSUER.into()).unwrap());
    server.api.keep_record(Arc::new(Record::open(&server.dir.path().join("audit")).unwrap()));
    server
}

/// Somebody who talks to the API.
struct Person<'s> {
    server: &'s Server,
    credential: Option<Credential>,
    token: String,
}

impl<'s> Person<'s> {
    fn named(server: &'s Server, name: &str, groups: &[&str]) -> Self {
        let credential = server.ca.issue_client(name, groups, None, SystemTime::now()).unwrap();
        Self { server, credential: Some(credential), token: String::new() }
    }

    fn with(server: &'s Server, token: &str) -> Self {
        Self { server, credential: None, token: token.to_owned() }
    }

    async fn connect(&self) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<> {
        let config =
            api_client_config([self.server.ca.certificate()], self.credential.as_ref(), &[b"http/1.1"]).unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = TcpStream::connect(self.server.address).await.unwrap();
        soon(connector.connect("localhost".try_into().unwrap(), stream)).await.unwrap()
    }

    fn head(&self, method: &str, path: &str, more: &str) -> String {
        let bearer = match self.token.as_str() {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nConnection: close\r\n{bearer}{more}\r\n"
        )
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut stream = self.connect().await;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let more = format!("Content-Type: {content}\r\nContent-Length: {}\r\n", body.len());
        stream.write_all((self.head(method, path, &more) + &body).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, &Value::Null).await
    }

    async fn makes(&self, path: &str, object: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, object).await;
        assert_eq!(status, 201, "{path} {object}: {answer}");
        answer
    }

    async fn may(&self, verb: &str, resource: &str, namespace: &str) -> bool {
        let attributes = json!({ "verb": verb, "resource": resource, "namespace": namespace });
        let review = json!({ "spec": { "resourceAttributes": attributes } });
        let answer = self.makes("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
        answer["status"]["allowed"].as_bool().unwrap()
    }
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({ "metadata": { "name": name }, "rules": [{ "verbs": verbs, "apiGroups": [""], "resources": resources }] })
}

fn binding(name: &str, kind: &str, role: &str, subject: &str) -> Value {
    json!({ "metadata": { "name": name }, "roleRef": { "kind": kind, "name": role },
        "subjects": [{ "kind": "User", "name": subject }] })
}

async fn namespaces(admin: &Person<'_>) {
    for name in ["shop", "office"] {
        admin.makes("/api/v1/namespaces", &json!({ "metadata": { "name": name } })).await;
    }
}

#[tokio::test]
async fn a_viewer_of_one_namespace_reads_there_and_nowhere_else() {
    let server = start().await;
    let (admin, ana) = (Person::named(&server, "root", &["system:masters"]), Person::named(&server, "ana", &[]));
    namespaces(&admin).await;
    let services = "/api/v1/namespaces/shop/services";
    let (status, refused) = ana.get(services).await;
    assert_eq!(
        (status, message(&refused)),
        (
            403,
            r#"services is forbidden: User "ana" cannot list resource "services" in API group "" in the namespace "shop""#
        )
    );
    assert_eq!(refused["details"], json!({ "kind": "services" }));
    let bindings = format!("{RBAC}/namespaces/shop/rolebindings");
    admin.makes(&bindings, &binding("viewers", "ClusterRole", "view", "ana")).await;
    // In force when it is answered.
    assert_eq!(ana.get(services).await.0, 200);
    assert_eq!(ana.get("/api/v1/namespaces/shop").await.0, 200);
    assert_eq!(ana.get("/apis/weft.mesh/v1alpha1/namespaces/shop/workloads").await.0, 200);
    let (status, refused) = ana.ask("POST", services, &json!({ "metadata": { "name": "cart" } })).await;
    assert_eq!(status, 403);
    assert!(message(&refused).contains(r#"cannot create resource "services""#), "{refused}");
    for path in [
        "/api/v1/namespaces/office/services",
        "/api/v1/services",
        "/api/v1/namespaces",
        "/api/v1/namespaces/office",
        bindings.as_str(),
        "/weft/v1/audit",
    ] {
        assert_eq!(ana.get(path).await.0, 403, "{path}");
    }
    // Everybody who is known reads what there is to ask for.
    for path in ["/api", "/apis", "/apis/weft.mesh/v1alpha1", "/api/v1", "/openapi/v3", "/"] {
        assert_eq!(ana.get(path).await.0, 200, "{path}");
    }
    assert_eq!((ana.may("list", "services", "shop").await, ana.may("delete", "services", "shop").await), (true, false));
    let rules = json!({ "spec": { "namespace": "shop" } });
    let rules = ana.makes("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await;
    assert!(rules["status"]["resourceRules"].to_string().contains("httproutes"), "{rules}");
    assert!(rules["status"]["nonResourceRules"].to_string().contains("/openapi/*"), "{rules}");
    let me = ana.makes("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    assert_eq!(me["status"]["userInfo"], json!({ "username": "ana", "groups": ["system:authenticated"] }));

    assert_eq!(admin.ask("DELETE", &format!("{bindings}/viewers"), &Value::Null).await.0, 200);
    assert_eq!(ana.get(services).await.0, 403);
    // The namespace takes its bindings along.
    admin.makes(&bindings, &binding("viewers", "ClusterRole", "view", "ana")).await;
    assert_eq!(admin.ask("DELETE", "/api/v1/namespaces/shop", &Value::Null).await.0, 200);
    assert_eq!(ana.get(services).await.0, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_role_by_name_verb_and_subresource_is_that_and_no_more() {
    let server = start().await;
    let (admin, ana) = (Person::named(&server, "root", &["system:masters"]), Person::named(&server, "ana", &["team"]));
    namespaces(&admin).await;
    let services = "/api/v1/namespaces/shop/services";
    for name in ["cart", "web"] {
        admin.makes(services, &json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } })).await;
    }
    let mut one = role("one", &["get", "list", "patch"], &["services"]);
    one["rules"][0]["resourceNames"] = json!(["cart"]);
    admin.makes(&format!("{RBAC}/namespaces/shop/roles"), &one).await;
    let mut to_team = binding("one", "Role", "one", "team");
    to_team["subjects"][0]["kind"] = "Group".into();
    admin.makes(&format!("{RBAC}/namespaces/shop/rolebindings"), &to_team).await;
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let cart = format!("{services}/cart");
    assert_eq!((ana.get(&cart).await.0, ana.get(&format!("{services}/web")).await.0), (200, 403));
    assert_eq!(ana.ask("PATCH", &cart, &label).await.0, 200);
    assert_eq!(ana.ask("PATCH", &format!("{cart}/status"), &label).await.0, 403);
    assert_eq!(ana.get(services).await.0, 403);
    assert_eq!(ana.get(&format!("{services}?fieldSelector=metadata.name%3Dcart")).await.0, 200);
    let (status, refused) = ana.ask("DELETE", &cart, &Value::Null).await;
    assert!(status == 403 && message(&refused).starts_with(r#"services "cart" is forbidden: "#), "{refused}");
    assert_eq!(refused["details"], json!({ "kind": "services", "name": "cart" }));
    server.stop().await;
}

#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let server = start().await;
    let (admin, ana) = (Person::named(&server, "root", &["system:masters"]), Person::named(&server, "ana", &[]));
    namespaces(&admin).await;
    let (roles, bindings) = (format!("{RBAC}/namespaces/shop/roles"), format!("{RBAC}/namespaces/shop/rolebindings"));
    admin.makes(&bindings, &binding("admins", "ClusterRole", "admin", "ana")).await;
    // What an admin of the namespace has she gives there.
    ana.makes(&roles, &role("reader", &["get"], &["services"])).await;
    ana.makes(&bindings, &binding("reader", "Role", "reader", "ben")).await;
    ana.makes(&bindings, &binding("viewer", "ClusterRole", "view", "ben")).await;
    let (status, refused) = ana.ask("POST", &roles, &role("pods", &["get"], &["pods"])).await;
    assert_eq!(status, 403);
    let text = message(&refused);
    assert!(text.starts_with(r#"roles.rbac.authorization.k8s.io "pods" is forbidden: user "ana""#), "{text}");
    assert!(text.contains(r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#), "{text}");
    let all = binding("all", "ClusterRole", "cluster-admin", "ana");
    assert_eq!(ana.ask("POST", &bindings, &all).await.0, 403);
    assert_eq!(ana.ask("POST", &format!("{RBAC}/namespaces/office/rolebindings"), &all).await.0, 403);
    assert_eq!(ana.ask("POST", &format!("{RBAC}/clusterrolebindings"), &all).await.0, 403);
    // Nor by changing what is there.
    let wider = json!({ "rules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }] });
    assert_eq!(ana.ask("PATCH", &format!("{roles}/reader"), &wider).await.0, 403);
    let (status, refused) = ana.ask("POST", &bindings, &binding("x", "ClusterRole", "no-such", "ben")).await;
    assert_eq!((status, message(&refused)), (404, r#"clusterroles.rbac.authorization.k8s.io "no-such" not found"#));
    // Unless a role says that she may.
    let bind = json!({ "metadata": { "name": "binder" }, "rules": [{ "verbs": ["bind"],
        "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"] }] });
    admin.makes(&format!("{RBAC}/clusterroles"), &bind).await;
    admin.makes(&bindings, &binding("binder", "ClusterRole", "binder", "ana")).await;
    ana.makes(&bindings, &all).await;
    // A binding stays one to its role.
    let other = json!({ "roleRef": { "kind": "ClusterRole", "name": "edit" } });
    let (status, refused) = admin.ask("PATCH", &format!("{bindings}/viewer"), &other).await;
    assert!(status == 422 && message(&refused).contains("cannot change roleRef"), "{refused}");
    // Roles that take in others are the cluster administrators' to make.
    let escalating = json!({ "metadata": { "name": "agg" }, "aggregationRule": { "clusterRoleSelectors": [{}] } });
    let editors = json!({ "metadata": { "name": "role-editor" }, "rules": [{ "verbs": ["create"],
        "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"] }] });
    admin.makes(&format!("{RBAC}/clusterroles"), &editors).await;
    admin.makes(&format!("{RBAC}/clusterrolebindings"), &binding("e", "ClusterRole", "role-editor", "cleo")).await;
    let cleo = Person::named(&server, "cleo", &[]);
    let (status, refused) = cleo.ask("POST", &format!("{RBAC}/clusterroles"), &escalating).await;
    assert!(status == 403 && message(&refused).contains("aggregationRule"), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_ends_when_its_right_goes() {
    let server = start().await;
    let (admin, ana) = (Person::named(&server, "root", &["system:masters"]), Person::named(&server, "ana", &[]));
    namespaces(&admin).await;
    let bindings = format!("{RBAC}/namespaces/shop/rolebindings");
    admin.makes(&bindings, &binding("viewers", "ClusterRole", "view", "ana")).await;
    let mut stream = ana.connect().await;
    let path = "/api/v1/namespaces/shop/services?watch=true";
    stream.write_all(ana.head("GET", path, "").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut until = async |wanted: &str| loop {
        match soon(lines.next_line()).await.unwrap() {
            Some(line) if line.contains(wanted) => return line,
            Some(_) => {}
            None => panic!("the watch ended before {wanted}"),
        }
    };
    until("200 OK").await;
    let service = |name: &str| json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
    admin.makes("/api/v1/namespaces/shop/services", &service("cart")).await;
    until("\"cart\"").await;
    // A change that leaves the right alone leaves the watch alone.
    admin.makes(&bindings, &binding("other", "ClusterRole", "view", "ben")).await;
    admin.makes("/api/v1/namespaces/shop/services", &service("web")).await;
    until("\"web\"").await;
    assert_eq!(admin.ask("DELETE", &format!("{bindings}/viewers"), &Value::Null).await.0, 200);
    let last = until("\"ERROR\"").await;
    assert!(last.contains(r#""code":403"#) && last.contains("cannot watch resource"), "{last}");
    server.stop().await;
}

#[tokio::test]
async fn a_token_of_a_service_account_is_good_while_the_account_is_the_same() {
    let server = start().await;
    let admin = Person::named(&server, "root", &["system:masters"]);
    namespaces(&admin).await;
    let accounts = "/api/v1/namespaces/shop/serviceaccounts";
    let account = json!({ "metadata": { "name": "cart" } });
    let made = admin.makes(accounts, &account).await;
    let request = format!("{accounts}/cart/token");
    let answer = admin.makes(&request, &json!({ "spec": { "expirationSeconds": 600 } })).await;
    assert_eq!((&answer["kind"], &answer["spec"]["audiences"]), (&"TokenRequest".into(), &json!([ISSUER])));
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let cart = Person::with(&server, &token);
    let me = cart.makes("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    let info = &me["status"]["userInfo"];
    assert_eq!(info["username"], "system:serviceaccount:shop:cart");
    assert_eq!(info["uid"], made["metadata"]["uid"]);
    assert_eq!(
        info["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"])
    );
    assert_eq!(cart.get("/api/v1/namespaces/shop/services").await.0, 403);
    let mut to_account = binding("cart", "ClusterRole", "view", "cart");
    to_account["subjects"] = json!([{ "kind": "ServiceAccount", "name": "cart", "namespace": "shop" }]);
    admin.makes(&format!("{RBAC}/namespaces/shop/rolebindings"), &to_account).await;
    assert_eq!(cart.get("/api/v1/namespaces/shop/services").await.0, 200);

    // A token for somebody else is none for the API, and the other way round.
    let spec = json!({ "spec": { "audiences": ["vault", "bank"] } });
    let other = admin.makes(&request, &spec).await["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(Person::with(&server, &other).get("/api").await.0, 401);
    let review = async |token: &str, audiences: Value| {
        let review = json!({ "spec": { "token": token, "audiences": audiences } });
        admin.makes("/apis/authentication.k8s.io/v1/tokenreviews", &review).await["status"].clone()
    };
    let status = review(&other, json!(["bank", "post"])).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&true.into(), &json!(["bank"])));
    assert_eq!(status["user"]["username"], "system:serviceaccount:shop:cart");
    let status = review(&other, Value::Null).await;
    assert_eq!(status["authenticated"], false);
    assert!(status["error"].as_str().unwrap().contains("audience"), "{status}");
    assert_eq!(review(&token, Value::Null).await["audiences"], json!([ISSUER]));
    for bad in ["nonsense", &format!("{token}x"), &token[..token.len() - 8]] {
        assert_eq!(review(bad, Value::Null).await["authenticated"], false);
        assert_eq!(Person::with(&server, bad).get("/api").await.0, 401);
    }
    assert_eq!(cart.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &json!({})).await.0, 403);

    for (spec, field) in [
        (json!({ "expirationSeconds": 599 }), "spec.expirationSeconds"),
        (json!({ "expirationSeconds": 200_000 }), "spec.expirationSeconds"),
        (json!({ "boundObjectRef": { "kind": "Pod" } }), "spec.boundObjectRef"),
        (json!({ "audiences": [1] }), "spec.audiences"),
    ] {
        let (status, refused) = admin.ask("POST", &request, &json!({ "spec": spec })).await;
        assert_eq!((status, &refused["details"]["causes"][0]["field"]), (422, &field.into()), "{refused}");
    }
    assert_eq!(admin.ask("POST", &format!("{accounts}/none/token"), &json!({})).await.0, 404);

    // The same name given again is another account.
    assert_eq!(admin.ask("DELETE", &format!("{accounts}/cart"), &Value::Null).await.0, 200);
    assert_eq!(cart.get("/api").await.0, 401);
    admin.makes(accounts, &account).await;
    assert_eq!(cart.get("/api").await.0, 401);
    assert_eq!(review(&token, Value::Null).await["authenticated"], false);
    server.stop().await;
}

#[tokio::test]
async fn others_are_asked_about_by_who_may_and_what_was_done_is_written_down() {
    let server = start().await;
    let (admin, ana) = (Person::named(&server, "root", &["system:masters"]), Person::named(&server, "ana", &[]));
    namespaces(&admin).await;
    admin.makes(&format!("{RBAC}/namespaces/shop/rolebindings"), &binding("v", "ClusterRole", "view", "ben")).await;
    let review = |verb: &str| {
        let attributes = json!({ "verb": verb, "resource": "services", "namespace": "shop" });
        json!({ "spec": { "user": "ben", "resourceAttributes": attributes } })
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = admin.makes(path, &review("get")).await;
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        answer["status"]["reason"],
        r#"RBAC: allowed by RoleBinding "v/shop" of ClusterRole "view" to User "ben""#
    );
    assert_eq!(admin.makes(path, &review("delete")).await["status"]["allowed"], false);
    let local = "/apis/authorization.k8s.io/v1/namespaces/office/localsubjectaccessreviews";
    assert_eq!(admin.ask("POST", local, &review("get")).await.0, 400);
    assert_eq!(admin.makes(&local.replace("office", "shop"), &review("get")).await["status"]["allowed"], true);
    assert_eq!(ana.ask("POST", path, &review("get")).await.0, 403);
    // Under another name: with its rights, if one may take it.
    let as_ben = "Impersonate-User: ben\r\n";
    let taken = async |who: &Person<'_>, path: &str| {
        let mut stream = who.connect().await;
        stream.write_all(who.head("GET", path, as_ben).as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(taken(&admin, "/api/v1/namespaces/shop/services").await, "200");
    assert_eq!(taken(&admin, "/api/v1/namespaces/office/services").await, "403");
    assert_eq!(taken(&ana, "/api").await, "403");
    let paths = json!({ "spec": { "user": "ben", "nonResourceAttributes": { "path": "/metrics", "verb": "get" } } });
    assert_eq!(admin.makes(path, &paths).await["status"]["allowed"], false);
    assert_eq!(ana.get("/api/v1/namespaces/shop/services/cart").await.0, 403);

    let record = Record::open(&server.dir.path().join("audit")).unwrap();
    let lines = record.last(100).unwrap();
    let short: Vec<_> = lines
        .iter()
        .map(|l| format!("{} {} {} {} {}", l["user"], l["verb"], l["resource"], l["name"], l["code"]).replace('"', ""))
        .collect();
    assert_eq!(
        short,
        [
            "root create namespaces shop 201",
            "root create namespaces office 201",
            "root create rolebindings v 201",
            "ana create subjectaccessreviews null 403",
            "ben list services null 403",
            "ana impersonate users ben 403",
            "ana get services cart 403",
        ]
    );
    assert_eq!(lines[2]["group"], "rbac.authorization.k8s.io");
    assert_eq!(lines[4]["impersonatedBy"], "root");
    assert_eq!((&lines[6]["namespace"], &lines[6]["userAgent"]), (&"shop".into(), &"test".into()));
    assert!(lines[6]["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    server.stop().await;
}

#[tokio::test]
async fn what_people_made_of_the_roles_of_the_first_start_lasts() {
    let server = start().await;
    let admin = Person::named(&server, "root", &["system:masters"]);
    let view = format!("{RBAC}/clusterroles/view");
    let found = admin.get(&view).await.1;
    let more = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"] });
    let mut rules = found["rules"].as_array().unwrap().clone();
    rules.push(more.clone());
    let removed = rules.remove(0);
    assert_eq!(admin.ask("PATCH", &view, &json!({ "rules": rules })).await.0, 200);
    let kept = json!({ "metadata": { "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "false" } }, "rules": [] });
    assert_eq!(admin.ask("PATCH", &format!("{RBAC}/clusterroles/edit"), &kept).await.0, 200);
    assert_eq!(admin.ask("DELETE", &format!("{RBAC}/clusterroles/admin"), &Value::Null).await.0, 200);
    let dir = server.stop().await;
    let server = Server::open(dir, Default::default(), Default::default(), "127.0.0.1:0").await;
    let admin = Person {
        server: &server,
        credential: Some(server.ca.issue_client("root", &["system:masters"], None, SystemTime::now()).unwrap()),
        token: String::new(),
    };
    let rules = admin.get(&view).await.1["rules"].as_array().unwrap().clone();
    assert!(rules.contains(&more) && rules.contains(&removed), "{rules:?}");
    assert_eq!(admin.get(&format!("{RBAC}/clusterroles/edit")).await.1["rules"], json!([]));
    assert_eq!(admin.get(&format!("{RBAC}/clusterroles/admin")).await.0, 200);
    server.stop().await;
}
