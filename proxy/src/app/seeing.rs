//! What a sidecar tells of its calls while it runs: the task that exports spans, and whose they are; the access log as the mesh wants it,
//! in a file that may be moved away (SIGHUP).

use super::{AppError, Process, start};
use crate::config::Settings;
use crate::discovery::Directory;
use crate::telemetry::spans::export::{self, Options};
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};

/// The resource of a workload's spans (OpenTelemetry, "Resource semantic conventions"): the service that it belongs to first, and where it
/// runs.
fn resource(settings: &Settings, directory: &Directory) -> Vec<(String, String)> {
    let known = directory.snapshot().inbound.as_ref().map(|inbound| inbound.workload.to_string());
    let (uid, service, zone) = match &settings.workload {
        Some(workload) => {
            let service = workload.services.first().unwrap_or(&workload.name);
            (workload.uid(), format!("{}/{service}", workload.namespace), workload.zone.as_str())
        }
        None => (known.clone().unwrap_or_default(), known.unwrap_or_default(), ""),
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (namespace, name) = service.split_once('/').unwrap_or_default();
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let name = if name.is_empty() { variable("OTEL_SERVICE_NAME") } else { Some(name) };
    let mut pairs = vec![
        ("service.name", name.unwrap_or_else(|| "unknown_service:weft-proxy".to_owned())),
        ("service.namespace", namespace.clone()),
        ("service.instance.id", uid.clone()),
        ("weft.workload", uid.clone()),
        ("cloud.availability_zone", zone.to_owned()),
        ("telemetry.sdk.name", "weft".to_owned()),
        ("telemetry.sdk.language", "rust".to_owned()),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    // There a workload is a pod, and has its name.
    if variable("KUBERNETES_SERVICE_HOST").is_some() {
        let pod = uid.split_once('/').map(|(_, name)| name.to_owned()).unwrap_or_default();
        pairs.extend([("k8s.namespace.name", namespace), ("k8s.pod.name", pod)]);
    }
    let given = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    given.map(|(key, value)| (key.to_owned(), value)).collect()
}

impl Process {
    /// Exports spans from now on, as soon as somebody says where to.
    pub(super) fn start_spans(&mut self, directory: &Directory, own: &[SocketAddr]) {
        // What the settings say was checked when they were read.
        let tracing = self.settings.tracing.as_ref().and_then(|tracing| tracing.checked().ok());
        let (telemetry, settings) = (self.telemetry.clone(), self.settings.clone());
        let (directory, upstream) = (directory.clone(), self.upstream(own));
        self.tasks.spawn(async move {
            let whose = directory.clone();
            let options = Options { own: tracing, resource: Box::new(move || resource(&settings, &whose)), upstream };
            export::run(&telemetry.spans, directory, options).await;
            "spans"
        });
    }

    /// Keeps the access log as the mesh's settings want it, and its file where it belongs.
    pub(super) fn follow_log(&mut self, directory: &Directory) -> Result<(), AppError> {
        let mut moved = signal(SignalKind::hangup()).map_err(start)?;
        let (telemetry, directory) = (self.telemetry.clone(), directory.clone());
        self.tasks.spawn(async move {
            let mut changes = directory.changes();
            let mut before = None;
            loop {
                let wanted = directory.snapshot().settings.access_log;
                if before != wanted {
                    if let Err(error) = telemetry.log.follow(wanted.as_ref()) {
                        tracing::warn!("the access log stays as it was: {error}");
                    }
                    before = wanted;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                    _ = moved.recv() => telemetry.log.reopen(),
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workload;
    use crate::discovery::Publisher;

    #[test]
    fn spans_are_of_the_first_service_of_a_workload_and_of_the_workload_itself() {
        let (directory, _publisher, _asks) = Publisher::new();
        let mut workload = Workload::named("shop", "cart-1");
        workload.services = vec!["cart".to_owned(), "basket".to_owned()];
        let settings = Settings { workload: Some(workload), ..Settings::default() };
        let told = resource(&settings, &directory);
        let value = |key: &str| told.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
        assert_eq!((value("service.name"), value("service.namespace")), (Some("cart"), Some("shop")));
        assert_eq!((value("service.instance.id"), value("weft.workload")), (Some("shop/cart-1"), Some("shop/cart-1")));
        assert_eq!(value("cloud.availability_zone"), None);
        let nobody = resource(&Settings::default(), &directory);
        assert!(nobody.iter().any(|(key, _)| key == "service.name"));
    }
}
