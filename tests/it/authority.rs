//! Certificates for servers of a test's own.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority of the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub fn write(&self, path: &Path) {
        fs::write(path, pem("CERTIFICATE", self.0.der())).expect("it can be written");
    }

    /// Puts its own certificate, and certificate and key of a server of that name there: `ca.pem`,
    /// `server.pem`, `key.pem`.
    pub fn write_server(&self, name: &str, folder: &Path) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        self.write(&folder.join("ca.pem"));
        let write = |file, text| fs::write(folder.join(file), text).expect("it can be written");
        write("server.pem", pem("CERTIFICATE", certificate.der()));
        write("key.pem", pem("PRIVATE KEY", &key.serialize_der()));
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
