//! TLS clients of three makes and servers of two, which present whatever they are given and believe everybody: what becomes of them is for
//! the other side to say.

use crate::certificates::Papers;
use crate::frames::{Met, Raw};
use crate::peer::block;
use crate::stage::text;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_certs::tls::{ALPN_HBONE, provider, unnamed};
use weft_integration::rig::{Process, accepts, free_port, program, wait_for};

/// The preface of HTTP/2, empty SETTINGS, and a GOAWAY for what follows: whoever is admitted reads the server's SETTINGS, and the
/// connection ends.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
const PATIENCE: Duration = Duration::from_secs(20);

/// A library.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    Rustls,
    OpenSsl,
    Python,
}

impl Client {
    pub const ALL: [Self; 3] = [Self::Rustls, Self::OpenSsl, Self::Python];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Rustls => "rustls",
            Self::OpenSsl => "openssl",
            Self::Python => "Python",
        }
    }

    pub const fn speaks_tls12(self) -> bool {
        !matches!(self, Self::Rustls)
    }

    /// Whether the server says hello after the handshake: with TLS 1.3 a client learns only then whether it was admitted.
    pub fn dial(self, folder: &Path, to: SocketAddr, papers: Option<&Papers>, tls12: bool) -> Result<(), String> {
        match self {
            Self::Rustls => block(async {
                let mut stream = connect(to, papers).await?;
                stream.write_all(HELLO).await.map_err(|e| e.to_string())?;
                let mut first = [0; 9];
                let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut first)).await;
                read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                is_settings(&first)
            }),
            Self::OpenSsl => openssl(folder, to, papers, &[if tls12 { "-tls1_2" } else { "-tls1_3" }]),
            Self::Python => python(folder, to, papers, tls12),
        }
    }
}

fn is_settings(bytes: &[u8]) -> Result<(), String> {
    match bytes.get(3) {
        Some(4) => Ok(()),
        _ => Err(format!("no SETTINGS: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]))),
    }
}

/// `openssl s_client` with these flags.
pub fn openssl(folder: &Path, to: SocketAddr, papers: Option<&Papers>, flags: &[&str]) -> Result<(), String> {
    let hello = hello(folder);
    let mut command = Command::new(program("timeout"));
    command.arg("20").arg(program("openssl")).args(["s_client", "-quiet", "-alpn", "h2", "-connect", &to.to_string()]);
    command.args(flags);
    if let Some(papers) = papers {
        command.args(["-cert", text(&papers.chain), "-cert_chain", text(&papers.chain), "-key", text(&papers.key)]);
    }
    let output = command.stdin(File::open(hello).unwrap()).output().unwrap();
    is_settings(&output.stdout).map_err(|why| format!("{why} {}", String::from_utf8_lossy(&output.stderr)))
}

fn hello(folder: &Path) -> PathBuf {
    let path = folder.join("hello");
    std::fs::write(&path, HELLO).unwrap();
    path
}

const SCRIPT: &str = r#"
import socket, ssl, sys
host, port, hello, version, chain, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
if version == "1.2":
    context.maximum_version = ssl.TLSVersion.TLSv1_2
if chain:
    context.load_cert_chain(chain, key)
with socket.create_connection((host, int(port)), 20) as tcp, context.wrap_socket(tcp) as tls:
    tls.sendall(open(hello, "rb").read())
    said = b""
    while len(said) < 9 and (part := tls.recv(4096)):
        said += part
sys.stdout.buffer.write(said)
"#;

fn python(folder: &Path, to: SocketAddr, papers: Option<&Papers>, tls12: bool) -> Result<(), String> {
    let hello = hello(folder);
    let (chain, key) = papers.map_or(("", ""), |papers| (text(&papers.chain), text(&papers.key)));
    let (host, port, version) = (to.ip().to_string(), to.port().to_string(), if tls12 { "1.2" } else { "1.3" });
    let output = Command::new(program("python3"))
        .args(["-c", SCRIPT, &host, &port, text(&hello), version, chain, key])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    is_settings(&output.stdout).map_err(|why| {
        let error = String::from_utf8_lossy(&output.stderr);
        format!("{why} {}", error.lines().last().unwrap_or_default())
    })
}

async fn connect(to: SocketAddr, papers: Option<&Papers>) -> Result<TlsStream<TcpStream>, String> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match papers {
        Some(papers) => builder.with_client_cert_resolver(Arc::new(Presents(certified(papers)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HBONE.to_vec()];
    let tcp = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
    TlsConnector::from(Arc::new(config)).connect(unnamed(), tcp).await.map_err(|e| e.to_string())
}

/// The status that a CONNECT gets.
pub fn hears(to: SocketAddr, papers: &Papers, authority: &str) -> Result<u16, String> {
    block(async {
        let stream = connect(to, Some(papers)).await?;
        let mut raw = Raw::open(stream).await.map_err(|e| e.to_string())?;
        let fields: [(&str, &[u8]); 2] = [(":method", b"CONNECT"), (":authority", authority.as_bytes())];
        match raw.request(&fields, false).await.map_err(|e| e.to_string())? {
            Met::Status(status) => Ok(status),
            other => Err(format!("{other:?}")),
        }
    })
}

fn certified(papers: &Papers) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(&papers.chain).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&papers.key).unwrap();
    Arc::new(CertifiedKey::new(chain, provider().key_provider.load_private_key(key).unwrap()))
}

#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS server.
pub enum Server {
    Rustls { address: SocketAddr, heard: Arc<Mutex<Option<String>>>, _thread: std::thread::JoinHandle<()> },
    OpenSsl { address: SocketAddr, process: Process },
}

/// Starts one that presents `papers`; with `tls12` it speaks nothing newer.
pub fn server(folder: &Path, name: &str, papers: &Papers, tls12: bool) -> Server {
    if tls12 {
        let port = free_port();
        let mut command = Command::new(program("openssl"));
        command.args([
            "s_server",
            "-www",
            "-tls1_2",
            "-alpn",
            "h2",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-naccept",
            "100",
        ]);
        command.args(["-cert", text(&papers.chain), "-cert_chain", text(&papers.chain), "-key", text(&papers.key)]);
        let process = Process::start(folder, name, command.stdin(Stdio::null()));
        let address = ([127, 0, 0, 1], port).into();
        wait_for("openssl listens", || accepts(address));
        return Server::OpenSsl { address, process };
    }
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Presents(certified(papers))));
    config.alpn_protocols = vec![ALPN_HBONE.to_vec(), b"weft-h2".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<Option<String>>>::default();
    let note = Arc::clone(&heard);
    // Ends with the test program.
    let _thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (listener, tls) = (TcpListener::from_std(listener).unwrap(), TlsAcceptor::from(Arc::new(config)));
            while let Ok((tcp, _)) = listener.accept().await {
                let said = match tls.accept(tcp).await {
                    Ok(_) => "the handshake is over".to_owned(),
                    Err(error) => weft_certs::Error::from_handshake(&error).to_string(),
                };
                *note.lock().unwrap() = Some(said);
            }
        });
    });
    Server::Rustls { address, heard, _thread }
}

impl Server {
    pub const fn address(&self) -> SocketAddr {
        match self {
            Self::Rustls { address, .. } | Self::OpenSsl { address, .. } => *address,
        }
    }

    /// What the last client said of it.
    pub fn heard(&self) -> Option<String> {
        match self {
            Self::Rustls { heard, .. } => heard.lock().unwrap().clone(),
            Self::OpenSsl { process, .. } => {
                let log = process.log();
                let line = log.lines().find(|line| line.contains("error:"))?;
                Some(format!("alert or version: {line}"))
            }
        }
    }
}
