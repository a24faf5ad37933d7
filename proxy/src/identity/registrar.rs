//! Telling the control plane of the workload: at the start, and whenever a stream to it begins anew, since it may have lost what it
//! knew. Which services a workload may join is decided over there: by the claims of its join
//! token, or by what its service account may.

use super::Enrolment;
use super::issue::{IdentityError, refused_or_away};
use crate::config::{Protocol, Workload};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::{self, RegisterRequest, WorkloadPort};

const ASK: Duration = Duration::from_secs(10);

/// Registers one workload.
#[derive(Clone)]
pub struct Registrar {
    channel: Channel,
    request: RegisterRequest,
    uid: String,
}

impl std::fmt::Debug for Registrar {
    // Without the request, in which the join token is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registrar({})", self.uid)
    }
}

impl Registrar {
    /// A registrar over a channel that presents the workload's certificate. `tunnel` is where the mTLS listener is bound.
    #[must_use]
    pub fn new(channel: Channel, workload: &Workload, tunnel: SocketAddr, enrolment: Option<&Enrolment>) -> Self {
        // Peers cannot dial "any address": they dial the workload's own.
        let ip = if tunnel.ip().is_unspecified() { workload.address } else { tunnel.ip() };
        let ports = workload.ports.iter().map(|port| WorkloadPort {
            name: port.name.clone(),
            port: u32::from(port.port),
            protocol: match port.protocol {
                Protocol::Http => v1::Protocol::Http1,
                Protocol::Http2 => v1::Protocol::Http2,
                Protocol::Grpc => v1::Protocol::Grpc,
                Protocol::Tcp => v1::Protocol::Tcp,
                Protocol::Detect => v1::Protocol::Detect,
            }
            .into(),
            local: port.local.map(|l| l.to_string()).unwrap_or_default(),
        });
        let request = RegisterRequest {
            join_token: enrolment.and_then(Enrolment::join_token).unwrap_or_default().to_owned(),
            name: workload.name.clone(),
            services: workload.services.clone(),
            ports: ports.collect(),
            address: workload.address.to_string(),
            tunnel: SocketAddr::new(ip, tunnel.port()).to_string(),
            labels: workload.labels.clone(),
            zone: workload.zone.clone(),
        };
        Self { channel, request, uid: workload.uid() }
    }

    /// Registers, by token if there is one, else by the certificate alone.
    ///
    /// # Errors
    /// Refused, or the control plane is away.
    pub async fn register(&self) -> Result<(), IdentityError> {
        match self.ask(self.request.clone()).await {
            // The token may be used up or expired; for a workload that is registered already the certificate is enough.
            Err(IdentityError::Refused(reason)) if !self.request.join_token.is_empty() => {
                let by_certificate = RegisterRequest { join_token: String::new(), ..self.request.clone() };
                self.ask(by_certificate).await.map_err(|error| match error {
                    IdentityError::Refused(_) => IdentityError::Refused(reason),
                    other => other,
                })
            }
            other => other,
        }
    }

    async fn ask(&self, request: RegisterRequest) -> Result<(), IdentityError> {
        let mut client = IdentityClient::new(self.channel.clone());
        let response = timeout(ASK, client.register(request))
            .await
            .map_err(|_| IdentityError::Unavailable(format!("the control plane did not answer within {ASK:?}")))?
            .map_err(|status| refused_or_away(&status))?;
        let uid = response.into_inner().uid;
        if uid != self.uid {
            return Err(IdentityError::Refused(format!("registered as {uid:?}, but this workload is {:?}", self.uid)));
        }
        Ok(())
    }
}
