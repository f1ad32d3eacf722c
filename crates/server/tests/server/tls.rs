//! Connections through TLS.

use std::sync::Arc;

use calor_server::ServerError;
use calor_server::options::TlsFiles;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::fixture::Running;

/// A certificate for `localhost`, and its files.
fn files() -> (TempDir, TlsFiles, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = TempDir::new().unwrap();
    let files = TlsFiles { certificates: dir.path().join("a.pem"), key: dir.path().join("a.key") };
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (dir, files, made.cert.der().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken_through_tls() {
    let (_dir, files, certificate) = files();
    let server = Running::start(|it| it.tls = Some(files)).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for protocol in ["h2", "http/1.1"] {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.into()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let request = Request::get("https://localhost/readyz").header("host", "localhost");
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let io = TokioIo::new(stream);
        let response = match protocol {
            "h2" => {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            }
            _ => {
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            }
        };
        assert_eq!(response.status(), 200, "{protocol}");
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    // A client that does not speak TLS disturbs nobody.
    let plain = TcpStream::connect(server.address).await.unwrap();
    plain.try_write(b"GET / HTTP/1.1\r\n\r\n").unwrap();
}

#[tokio::test]
async fn files_that_hold_no_certificate_are_refused_by_name() {
    let (dir, files, _) = files();
    let check = |files: TlsFiles| async {
        let knobs = Arc::new(crate::double::Knobs::default());
        let options = calor_server::ServerOptions { tls: Some(files), ..crate::fixture::options() };
        let opener = crate::double::opener(&knobs);
        let server = calor_server::Server::bind(
            options,
            opener,
            Arc::new(|| 0),
            Arc::new(calor_telemetry::Counters::new()),
            Arc::new(calor_telemetry::Null),
        );
        server.await.map(|_| ()).unwrap_err()
    };
    let absent = TlsFiles { certificates: dir.path().join("none.pem"), ..files.clone() };
    let err = check(absent).await;
    assert!(matches!(&err, ServerError::Pem { path, .. } if path.ends_with("none.pem")), "{err}");
    let swapped = TlsFiles { certificates: files.key.clone(), key: files.certificates.clone() };
    assert!(matches!(check(swapped).await, ServerError::Pem { .. } | ServerError::Tls { .. }));
}
