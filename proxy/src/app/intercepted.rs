//! What a sidecar does for a workload whose traffic is intercepted: DNS, and the rules themselves where they are its
//! own to install.

use super::sockets::Sockets;
use super::{AppError, Process, start, worker};
use crate::config::{self, ConfigError};
use crate::discovery::Directory;
use crate::endpoint::external;
use crate::intercept::{self, dns, nft};
use crate::takeover::message::Kind;
use crate::takeover::{DNS, Turn};
use std::net::SocketAddr;
use std::sync::Arc;

impl Process {
    pub(super) fn start_dns(
        &mut self,
        sockets: &mut Sockets,
        directory: &Directory,
        own: &[SocketAddr],
    ) -> Result<(), AppError> {
        let resolver = dns::Resolver::new(directory.clone(), self.upstream(own), Arc::clone(&self.stand_ins));
        for (address, udp, tcp) in std::mem::take(&mut sockets.dns) {
            let udp = Arc::new(tokio::net::UdpSocket::from_std(udp).map_err(start)?);
            let tcp = Arc::new(tokio::net::TcpListener::from_std(tcp).map_err(start)?);
            self.shelf.put(Kind::Udp, DNS, &address, &udp);
            self.shelf.put(Kind::Tcp, DNS, &address, &tcp);
            let (resolver, turn) = (Arc::clone(&resolver), self.turn.clone());
            self.tasks.spawn(async move {
                resolver.serve(udp, tcp, turn.clone()).await;
                if turn.is_over() { "" } else { "DNS" }
            });
        }
        Ok(())
    }

    /// Follows the addresses of external hosts.
    pub(super) fn start_resolver(&mut self, directory: &Directory, own: &[SocketAddr]) {
        let upstream = self.upstream(own);
        let directory = directory.clone();
        self.tasks.spawn(async move {
            match external::resolver(&upstream) {
                Ok(resolver) => external::run(directory, resolver, std::future::pending()).await,
                Err(error) => tracing::warn!("external hosts cannot be resolved: {error}"),
            }
            ""
        });
    }

    /// The name servers of the world outside.
    pub(super) fn upstream(&self, own: &[SocketAddr]) -> Vec<SocketAddr> {
        if !self.settings.dns.upstream.is_empty() {
            return self.settings.dns.upstream.clone();
        }
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        dns::system_upstream(&text, own)
    }

    /// Puts the redirection in force once the workers serve; the value takes it back.
    pub(super) fn install_rules(&self, ports: &worker::Ports) -> Result<Option<Rules>, AppError> {
        let interception = &self.settings.interception;
        if !interception.install {
            return Ok(None);
        }
        let plan = nft::Plan {
            own: interception.exempt_uid.map_or(nft::Own::Mark(intercept::MARK), nft::Own::Uid),
            exclude_uids: interception.exclude_uids.clone(),
            outbound: ports.outbound,
            inbound: ports.plaintext.map(|port| nft::Inbound { mode: interception.inbound_mode, port }),
            dns: ports.dns,
            direct: ports.direct.clone(),
            outbound_filter: interception.outbound.filter("interception.outbound")?,
            inbound_filter: interception.inbound.filter("interception.inbound")?,
        };
        intercept::rules::install(&plan).map_err(start)?;
        tracing::info!(
            outbound = plan.outbound,
            inbound = ports.plaintext,
            mode = ?interception.inbound_mode,
            dns = plan.dns,
            "interception rules are in force"
        );
        Ok(Some(Rules(self.turn.clone())))
    }
}

/// Sees to it that the rules know the sidecar's own packets: what they would capture of it would go round in circles.
pub(super) fn tell_own_packets(exempt_uid: Option<u32>) -> Result<(), ConfigError> {
    match exempt_uid {
        Some(uid) => {
            let own = rustix::process::geteuid().as_raw();
            if uid == own { Ok(()) } else { Err(config::refuse("interception.exemptUid", format!("is {uid}, but the sidecar runs as user {own}: its own calls would be captured"))) }
        }
        None => intercept::mark_sockets().map_err(|e| {
            let why = format!("the sidecar cannot mark its packets ({e}): give it CAP_NET_ADMIN, or where the rules go by user, say which (interception.exemptUid, --exempt-uid)");
            config::refuse("transparent", why)
        }),
    }
}

/// Sees to it that a sidecar behind TPROXY may do what it will have to.
pub(super) fn may_divert(mode: intercept::Mode) -> Result<(), ConfigError> {
    if mode == intercept::Mode::Redirect {
        return Ok(());
    }
    intercept::may_divert().map_err(|e| {
        let why = format!(
            "tproxy takes sockets with addresses of others ({e}): give the sidecar CAP_NET_ADMIN, or use redirect"
        );
        config::refuse("interception.inboundMode", why)
    })
}

/// The interception rules; dropping removes them, unless they are a successor's by now.
pub(super) struct Rules(Turn);

impl Drop for Rules {
    fn drop(&mut self) {
        if self.0.is_over() {
            return;
        }
        if let Err(error) = intercept::rules::remove() {
            tracing::error!(%error, "the interception rules could not be removed");
        }
    }
}
