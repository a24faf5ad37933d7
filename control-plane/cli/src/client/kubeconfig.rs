//! Finds and reads a kubeconfig: which API server, whom to trust, and who we are. No connection is made here.
//!
//! Certificate authorities, client certificates and tokens are understood, inline or by file; credential plugins are not.

use crate::Global;
use crate::failure::Failure;
use base64::Engine;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// One resolved context of a kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The file it came from.
    pub file: PathBuf,
    /// `https://127.0.0.1:15080`.
    pub server: String,
    /// PEM of the authorities that may have signed the server's certificate.
    pub authority: Vec<u8>,
    /// Name the certificate must carry, when not the host of `server`.
    pub server_name: Option<String>,
    /// PEM of our certificate and key.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// Bearer token.
    pub token: Option<String>,
    /// Namespace of the context.
    pub namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
}

/// The kubeconfig that applies: `--kubeconfig`, else `$KUBECONFIG`, else `./.weft/kubeconfig`, else `~/.kube/config`.
/// `None` when none of the last two exists and the first two are not given.
pub fn find(global: &Global) -> Option<PathBuf> {
    if let Some(path) = &global.kubeconfig {
        return Some(path.clone());
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        let paths: Vec<PathBuf> = std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        return paths.iter().find(|path| path.exists()).or(paths.first()).cloned();
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    [Some(PathBuf::from("./.weft/kubeconfig")), home].into_iter().flatten().find(|path| path.exists())
}

/// Reads the context that applies.
pub fn load(global: &Global) -> Result<Context, Failure> {
    let path = find(global).ok_or_else(|| {
        Failure::unreachable(
            "no kubeconfig: neither --kubeconfig nor $KUBECONFIG is given, and ./.weft/kubeconfig is not there",
        )
        .hint("start a control plane here with: weft up   (or name the file of a running one with --kubeconfig)")
    })?;
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::unreachable(format!("cannot read the kubeconfig {}: {error}", path.display()))
            .hint("`weft up` writes one into its data directory; name it with --kubeconfig")
    })?;
    parse(&path, &text, global.context.as_deref())
}

/// Resolves a context of the file's text; relative paths are relative to the file.
pub fn parse(path: &Path, text: &str, wanted: Option<&str>) -> Result<Context, Failure> {
    let bad = |what: String| Failure::usage(format!("kubeconfig {}: {what}", path.display()));
    let file: File = serde_saphyr::from_str(text).map_err(|error| bad(error.to_string()))?;
    let name = wanted.unwrap_or(&file.current_context);
    let context = match (file.contexts.iter().find(|entry| entry.name == name), file.contexts.as_slice()) {
        (Some(found), _) => &found.context,
        (None, [only]) if wanted.is_none() => &only.context,
        _ => {
            let names: Vec<&str> = file.contexts.iter().map(|entry| entry.name.as_str()).collect();
            return Err(bad(format!("no context '{name}'")).hint(format!("it has: {}", names.join(", "))));
        }
    };
    let cluster = file.clusters.into_iter().find(|entry| entry.name == context.cluster).map(|entry| entry.cluster);
    let cluster = cluster.ok_or_else(|| bad(format!("no cluster '{}'", context.cluster)))?;
    let user = file.users.into_iter().find(|entry| entry.name == context.user).map(|entry| entry.user);
    let user = user.unwrap_or_default();
    if cluster.insecure_skip_tls_verify {
        return Err(bad("insecure-skip-tls-verify is set, and weft never talks to a server it cannot verify".into())
            .hint("put the server's authority into certificate-authority-data"));
    }
    if user.exec.is_some() && user.client_certificate_data.is_none() && user.token.is_none() {
        return Err(bad("the user's credentials come from a plugin (exec), which weft does not run".into())
            .hint("use kubectl for this cluster, or a kubeconfig with a certificate or a token"));
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let material = |what: &str, data: Option<String>, file: Option<PathBuf>| -> Result<Option<Vec<u8>>, Failure> {
        match (data, file) {
            (Some(data), _) => base64::engine::general_purpose::STANDARD
                .decode(data.trim())
                .map(Some)
                .map_err(|error| bad(format!("{what}-data is not base64: {error}"))),
            (None, Some(file)) => {
                let file = dir.join(file);
                std::fs::read(&file).map(Some).map_err(|error| bad(format!("{what} {}: {error}", file.display())))
            }
            (None, None) => Ok(None),
        }
    };
    let authority =
        material("certificate-authority", cluster.certificate_authority_data, cluster.certificate_authority)?
            .ok_or_else(|| bad("the cluster has no certificate-authority".into()))?;
    let certificate = material("client-certificate", user.client_certificate_data, user.client_certificate)?;
    let key = material("client-key", user.client_key_data, user.client_key)?;
    let token = match (user.token, user.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => {
            let file = dir.join(file);
            let text = std::fs::read_to_string(&file).map_err(|e| bad(format!("tokenFile {}: {e}", file.display())))?;
            Some(text.trim().to_owned())
        }
        (None, None) => None,
    };
    Ok(Context {
        file: path.to_owned(),
        server: cluster.server.trim_end_matches('/').to_owned(),
        authority,
        server_name: cluster.tls_server_name,
        certificate: certificate.zip(key),
        token,
        namespace: context.namespace.clone().filter(|namespace| !namespace.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: v1
kind: Config
clusters:
- name: weft
  cluster: {server: "https://127.0.0.1:15080/", certificate-authority-data: Y2E=}
users:
- name: admin
  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}
contexts:
- name: weft
  context: {cluster: weft, user: admin, namespace: shop}
current-context: weft
"#;

    #[test]
    fn the_current_context_is_resolved_with_its_material() {
        let context = parse(Path::new("/x/kubeconfig"), FILE, None).unwrap();
        assert_eq!(context.server, "https://127.0.0.1:15080");
        assert_eq!(context.authority, b"ca");
        assert_eq!(context.certificate, Some((b"cert".to_vec(), b"key".to_vec())));
        assert_eq!(context.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn an_unknown_context_names_those_there_are() {
        let failure = parse(Path::new("k"), FILE, Some("prod")).unwrap_err();
        assert!(failure.message.contains("no context 'prod'"));
        assert_eq!(failure.hint.as_deref(), Some("it has: weft"));
    }

    #[test]
    fn a_server_that_cannot_be_verified_is_refused() {
        let text = FILE.replace("certificate-authority-data: Y2E=", "insecure-skip-tls-verify: true");
        assert!(parse(Path::new("k"), &text, None).unwrap_err().message.contains("insecure"));
    }
}
