//! Who may do what, as people set it up and try it with kubectl: users, roles, tokens, the questions before and the record after.

use crate::program::{Kubectl, with_each};
use serde_json::{Value, json};
use std::path::PathBuf;
use weft_integration::rig::{Caller, Output};

/// Somebody with a kubeconfig of their own.
struct Person<'k> {
    kubectl: &'k Kubectl,
    kubeconfig: PathBuf,
}

impl<'k> Person<'k> {
    /// Whom the administrator adds.
    fn added(kubectl: &'k Kubectl, name: &str, groups: &[&str]) -> Self {
        let kubeconfig = kubectl.mesh.folder().join(format!("{name}.kubeconfig"));
        let mut arguments = vec!["user", "add", name, "--valid", "1h", "-o", kubeconfig.to_str().unwrap()];
        arguments.extend(groups.iter().flat_map(|group| ["--group", group]));
        let said = kubectl.mesh.weft(&arguments).ok();
        assert!(said.starts_with(&format!("user/{name} added: ")), "{said}");
        Self { kubectl, kubeconfig }
    }

    /// Whoever has a token: nothing else of the administrator's papers.
    fn with_token(kubectl: &'k Kubectl, token: &str) -> Self {
        let text = std::fs::read_to_string(kubectl.mesh.kubeconfig()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"] = json!([{ "name": "weft", "user": { "token": token } }]);
        let kubeconfig = kubectl.mesh.folder().join("token.kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { kubectl, kubeconfig }
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["--kubeconfig", self.kubeconfig.to_str().unwrap()];
        all.extend(arguments);
        self.kubectl.run(&all)
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], why: &str) {
        let output = self.run(arguments);
        assert!(output.code != 0 && output.err.contains(why), "{arguments:?}: {output:?}");
    }

    /// `weft …` under the same name.
    fn weft(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["--kubeconfig", self.kubeconfig.to_str().unwrap()];
        all.extend(arguments);
        self.kubectl.mesh.weft(&all)
    }
}

const PLACES: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: office}\n---\n\
apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{port: 80}]}\n---\n\
apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: cart, namespace: shop}\n";

#[test]
fn a_viewer_of_one_namespace_sees_it_changes_nothing_and_sees_no_other() {
    with_each(|kubectl| {
        kubectl.apply(PLACES);
        let ana = Person::added(kubectl, "ana", &["team", "readers"]);
        let me = ana.ok(&["auth", "whoami"]);
        assert!(me.contains("ana") && me.contains("[team readers system:authenticated]"), "{me}");
        let forbidden = r#"services is forbidden: User "ana" cannot list resource "services" in API group "" in the namespace "shop""#;
        ana.refused(&["get", "services", "-n", "shop"], forbidden);
        assert!(ana.run(&["auth", "can-i", "list", "services", "-n", "shop"]).out.starts_with("no"));
        kubectl.ok(&["create", "rolebinding", "ana-views", "--clusterrole=view", "--user=ana", "-n", "shop"]);
        assert!(ana.ok(&["auth", "can-i", "list", "services", "-n", "shop"]).starts_with("yes"));
        assert!(ana.ok(&["get", "services,workloads,httproutes", "-n", "shop"]).contains("cart"));
        assert!(ana.ok(&["get", "ns", "shop"]).contains("Active"));
        let as_ana = |verb: &str| kubectl.run(&["auth", "can-i", verb, "services", "-n", "shop", "--as=ana"]).out;
        assert!(as_ana("list").starts_with("yes") && as_ana("delete").starts_with("no"));
        ana.refused(&["get", "services", "-n", "shop", "--as=root"], r#"cannot impersonate resource "users""#);
        let all = ana.ok(&["auth", "can-i", "--list", "-n", "shop"]);
        assert!(all.contains("trafficpolicies.weft.mesh") && all.contains("selfsubjectaccessreviews"), "{all}");
        ana.refused(&["delete", "service", "cart", "-n", "shop"], r#"cannot delete resource "services""#);
        ana.refused(&["get", "services", "-n", "office"], r#"in the namespace "office""#);
        ana.refused(&["get", "services", "-A"], "at the cluster scope");
        ana.refused(&["get", "rolebindings", "-n", "shop"], "cannot list resource");
        ana.refused(
            &["create", "rolebinding", "more", "--clusterrole=edit", "--user=ana", "-n", "shop"],
            r#"cannot create resource "rolebindings""#,
        );
        assert!(ana.weft(&["admin", "audit"]).err.contains("auditrecords"));
        // A group does as well as a name.
        kubectl.ok(&[
            "create",
            "role",
            "labels",
            "--verb=get,patch",
            "--resource=services",
            "--resource-name=cart",
            "-n",
            "shop",
        ]);
        kubectl.ok(&["create", "rolebinding", "labels", "--role=labels", "--group=readers", "-n", "shop"]);
        ana.ok(&["label", "service", "cart", "seen=yes", "-n", "shop"]);
        assert!(kubectl.ok(&["describe", "role", "labels", "-n", "shop"]).contains("services"));
        assert!(kubectl.ok(&["get", "rolebindings", "-n", "shop", "-o", "wide"]).contains("readers"));
        assert!(kubectl.ok(&["describe", "clusterrole", "view"]).contains("httproutes.gateway.networking.k8s.io"));
        kubectl.ok(&["create", "clusterrole", "pages", "--verb=get", "--non-resource-url=/metrics"]);
        kubectl.ok(&["create", "clusterrole", "sums", "--aggregation-rule=a=b"]);

        let audit = kubectl.mesh.weft(&["admin", "audit", "-o", "wide"]).ok();
        for (who, verb, what, code) in [
            ("weft-admin", "create", "rolebindings.rbac.authorization.k8s.io", "201"),
            ("ana", "delete", "services", "403"),
            ("ana", "patch", "services", "200"),
            ("weft-admin", "create", "users.weft.mesh", "201"),
        ] {
            let mut lines = audit.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let found = lines.any(|line| line[1] == who && line[2] == verb && line[3] == what && line[5] == code);
            assert!(found, "{who} {verb} {what} {code} in\n{audit}");
        }
        assert!(audit.contains("kubectl"), "{audit}");
        let read = audit.lines().find(|line| line.contains("  list ") && !line.contains(" 403 "));
        assert_eq!(read, None, "reads are not written down");
        let file = kubectl.mesh.data().join("audit/api.jsonl");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);

        kubectl.ok(&["delete", "rolebinding", "ana-views", "-n", "shop"]);
        ana.refused(&["get", "services", "-n", "shop"], forbidden);
    });
}

#[test]
fn a_service_accounts_token_is_whom_it_names_until_the_account_goes() {
    with_each(|kubectl| {
        kubectl.apply(PLACES);
        let token = kubectl.ok(&["create", "token", "cart", "-n", "shop", "--duration=10m"]);
        let cart = Person::with_token(kubectl, token.trim());
        let me = cart.ok(&["auth", "whoami", "-o", "json"]);
        let me: Value = serde_json::from_str(&me).unwrap();
        assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:shop:cart");
        cart.refused(&["get", "services", "-n", "shop"], "system:serviceaccount:shop:cart");
        kubectl.ok(&[
            "create",
            "rolebinding",
            "cart",
            "--clusterrole=view",
            "--serviceaccount=shop:cart",
            "-n",
            "shop",
        ]);
        assert!(cart.ok(&["get", "services", "-n", "shop"]).contains("cart"));
        assert!(cart.weft(&["get", "services", "-n", "shop"]).ok().contains("cart"));
        let other = kubectl.ok(&["create", "token", "cart", "-n", "shop", "--audience=vault"]);
        Person::with_token(kubectl, other.trim()).refused(&["get", "services", "-n", "shop"], "must be logged in");
        assert!(kubectl.fails(&["create", "token", "cart", "-n", "shop", "--duration=1m"]).contains("10 minutes"));
        kubectl.ok(&["delete", "serviceaccount", "cart", "-n", "shop"]);
        let cart = Person::with_token(kubectl, token.trim());
        cart.refused(&["get", "services", "-n", "shop"], "must be logged in");
    });
}

#[test]
fn a_role_for_a_sidecars_configuration_is_for_that_alone() {
    with_each(|kubectl| {
        kubectl.apply(PLACES);
        let caller = Caller::start(&kubectl.mesh, "shop", "web");
        let ben = Person::added(kubectl, "ben", &[]);
        let said = ben.weft(&["proxy", "config", "web", "-n", "shop"]);
        let why =
            r#"User "ben" cannot get resource "workloads/config" in API group "weft.mesh" in the namespace "shop""#;
        assert!(said.code == 1 && said.err.contains(why) && said.err.contains("weft user add --help"), "{said:?}");
        kubectl.ok(&["create", "role", "dumps", "--verb=get", "--resource=workloads.weft.mesh/config", "-n", "shop"]);
        kubectl.ok(&["create", "rolebinding", "dumps", "--role=dumps", "--user=ben", "-n", "shop"]);
        let dump = ben.weft(&["proxy", "config", "shop/web", "-o", "json"]).ok();
        let dump: Value = serde_json::from_str(&dump).unwrap();
        // What its own socket says; streams count on meanwhile.
        let own: Value = serde_json::from_str(&caller.sidecar.admin("/config_dump").unwrap()).unwrap();
        assert_eq!((&dump["inbound"], &dump["settings"]), (&own["inbound"], &own["settings"]));
        assert!(dump["inbound"].is_object() && dump["services"].is_array(), "{dump}");
        let (_, credentials) = caller.proxy();
        for secret in ["PRIVATE KEY", "password", credentials.as_str()] {
            assert!(!dump.to_string().contains(secret), "{secret}");
        }
        assert!(ben.weft(&["proxy", "config", "web", "-n", "shop"]).ok().contains("trustBundles:"), "YAML");
        for refused in [
            &["proxy", "log", "web", "debug", "-n", "shop"][..],
            &["get", "workloads", "-n", "shop"],
            &["proxy", "config", "web", "-n", "office"],
            &["stat"],
            &["token", "list"],
        ] {
            let said = ben.weft(refused);
            assert!(said.code == 1 && said.err.contains("forbidden"), "{refused:?}: {said:?}");
        }
        // Who may: the log changes, and a sidecar that is away is said to be.
        let said = kubectl.mesh.weft(&["proxy", "log", "web", "debug", "-n", "shop"]).ok();
        assert_eq!(said, "workload/shop/web logs debug\n");
        let bad = kubectl.mesh.weft(&["proxy", "log", "web", "weft=nonsense", "-n", "shop"]);
        assert_eq!(bad.code, 1, "{bad:?}");
        let away = kubectl.mesh.weft(&["proxy", "config", "nobody", "-n", "shop"]);
        assert!(away.code == 1 && away.err.contains("no sidecar of shop/nobody is connected"), "{away:?}");
        let audit = kubectl.mesh.weft(&["admin", "audit", "-o", "json"]).ok();
        let audit: Value = serde_json::from_str(&audit).unwrap();
        let commands = audit["items"].as_array().unwrap().iter().filter(|line| {
            line["user"] == "ben" && line["resource"] == "workloads/config" && line["namespace"] == "shop"
        });
        let codes: Vec<_> = commands.map(|line| line["code"].as_u64().unwrap()).collect();
        assert_eq!(codes, [403, 200, 200]);

        // What a role names in one namespace, commands ask for in that one.
        kubectl.ok(&["create", "rolebinding", "sees", "--clusterrole=weft-observer", "--user=ben", "-n", "shop"]);
        let stat = ben.weft(&["stat", "-n", "shop"]).ok();
        assert!(stat.contains("shop/cart"), "{stat}");
        let explained = ben.weft(&["explain", "--from", "shop/web", "--to", "shop/cart"]);
        assert!(explained.out.contains("shop/cart"), "{explained:?}");
        assert!(ben.weft(&["explain", "--to", "office/cart"]).err.contains("explanations"));
        kubectl.ok(&["create", "rolebinding", "runs", "--clusterrole=admin", "--user=ben", "-n", "shop"]);
        ben.weft(&["token", "create", "--service", "cart", "-n", "shop"]).ok();
        assert!(ben.weft(&["token", "create", "--service", "cart", "-n", "office"]).err.contains("jointokens"));
        assert!(ben.weft(&["token", "list", "-n", "shop"]).ok().contains("cart"));
    });
}
