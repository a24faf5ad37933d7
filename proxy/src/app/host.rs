//! What the process takes from its host: the proof of who it is, state directory, descriptors, the place of the access log.

use super::{AppError, start};
use crate::config::Settings;
use crate::identity::{Enrolment, JoinToken, ServiceAccount};
use crate::takeover::Inherited;
use crate::telemetry::access_log;
use std::path::{Path, PathBuf};
use weft_certs::files;

/// How a first certificate is come by, if the settings say so: the join token of the file or the environment, or files of a pod.
pub(super) fn enrolment(settings: &Settings) -> Result<Option<Enrolment>, AppError> {
    let token = join_token(settings)?;
    let Some(file) = &settings.service_account_token_file else { return Ok(token.map(Enrolment::JoinToken)) };
    if token.is_some() {
        let text = "cannot be used together with a join token; remove one of them";
        return Err(crate::config::refuse("serviceAccountTokenFile", text).into());
    }
    let control = settings.control_plane.as_ref();
    let Some((control, roots)) = control.and_then(|c| Some((c, c.roots_file.as_ref()?))) else {
        let text = "needs controlPlane.rootsFile: the roots by which the control plane is known";
        return Err(crate::config::refuse("serviceAccountTokenFile", text).into());
    };
    let domain = control
        .trust_domain
        .parse()
        .map_err(|e| crate::config::refuse("controlPlane.trustDomain", format!("{:?}: {e}", control.trust_domain)))?;
    Ok(Some(Enrolment::ServiceAccount(ServiceAccount::new(file.clone(), roots.clone(), domain))))
}

/// The join token of the file or the environment, if there is one.
fn join_token(settings: &Settings) -> Result<Option<JoinToken>, AppError> {
    let (text, field) = match &settings.join_token_file {
        // Of the process that is to be relieved; it was for joining, and is removed where that is done.
        Some(path) if settings.take_over.at_start && !path.exists() => (None, "joinTokenFile"),
        Some(path) => (
            Some(files::read(path).map_err(|e| crate::config::refuse("joinTokenFile", e.to_string()))?),
            "joinTokenFile",
        ),
        None => (std::env::var("WEFT_JOIN_TOKEN").ok().filter(|t| !t.is_empty()), "WEFT_JOIN_TOKEN"),
    };
    let Some(text) = text else { return Ok(None) };
    let token = JoinToken::parse(&text).map_err(|e| crate::config::refuse(field, e))?;
    let pin = settings.control_plane.as_ref().and_then(|c| c.ca_fingerprint.as_deref());
    if pin.is_some_and(|pin| !pin.eq_ignore_ascii_case(&token.root.to_string())) {
        return Err(crate::config::refuse("controlPlane.caFingerprint", "the join token pins another CA").into());
    }
    Ok(Some(token))
}

/// Makes the state directory and claims it for this process until the value is dropped.
/// A predecessor passes its claim on.
pub(super) fn own_state_dir(dir: &Path, inherited: &mut Inherited) -> Result<std::fs::File, AppError> {
    files::private_dir(dir).map_err(start)?;
    let path: PathBuf = dir.join("lock");
    if let Some(lock) = inherited.lock(&path) {
        return Ok(lock);
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| start(format!("{}: {e}", path.display())))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        start(format!("stateDir: another weft-proxy uses {}; to take its place, say --take-over", dir.display()))
    })?;
    Ok(file)
}

/// As many descriptors as the system allows: two for each call that is proxied.
pub(super) fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

pub(super) fn access_log_options(settings: &Settings) -> access_log::Options {
    use crate::config::AccessLogFormat;
    let log = &settings.access_log;
    access_log::Options {
        output: match log.path.as_str() {
            "off" => access_log::Output::Off,
            "stdout" => access_log::Output::Stdout,
            "stderr" => access_log::Output::Stderr,
            path => access_log::Output::File(path.into()),
        },
        layout: match log.format {
            AccessLogFormat::Json => access_log::Layout::Json,
            AccessLogFormat::Apache => access_log::Layout::Apache,
        },
        errors_only: log.errors_only,
        sample: log.sample,
    }
}
