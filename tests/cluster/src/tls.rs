//! Certificates for the servers of a test cluster: an authority of its own, and a certificate signed
//! by it for 127.0.0.1 and localhost. They live in the data directories, so that copies of a node
//! bring theirs along.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use postgres_openssl::MakeTlsConnector;

use crate::error::{Error, IoContext, Result};
use crate::os_user::give_to_server_user;

/// The names of the files in a data directory.
pub(crate) const ROOT_CERTIFICATE: &str = "root.crt";
pub(crate) const SERVER_CERTIFICATE: &str = "server.crt";
pub(crate) const SERVER_KEY: &str = "server.key";

/// The certificates of one cluster, in PEM.
#[derive(Clone)]
pub struct Certificates {
    root: Vec<u8>,
    server: Vec<u8>,
    server_key: Vec<u8>,
}

impl std::fmt::Debug for Certificates {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// Makes an authority and a server certificate.
    pub fn generate() -> Result<Certificates> {
        generate().map_err(|error| {
            Error::Environment(format!("cannot make certificates for TLS: {error}"))
        })
    }

    /// Puts them into a data directory.
    pub(crate) fn install(&self, data: &Path) -> Result<()> {
        let files: [(&str, &[u8]); 3] = [
            (ROOT_CERTIFICATE, &self.root),
            (SERVER_CERTIFICATE, &self.server),
            (SERVER_KEY, &self.server_key),
        ];
        for (name, contents) in files {
            let path = data.join(name);
            fs::write(&path, contents).at("cannot write", &path)?;
            // PostgreSQL does not take a key that others can read.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .at("cannot close", &path)?;
            give_to_server_user(&path)?;
        }
        Ok(())
    }
}

/// How a client of this crate checks a server's certificate.
pub(crate) fn connector(root_certificate: &PathBuf) -> Result<MakeTlsConnector> {
    let connector = || -> std::result::Result<_, ErrorStack> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        builder.set_ca_file(root_certificate)?;
        Ok(MakeTlsConnector::new(builder.build()))
    };
    connector().map_err(|error| {
        Error::Environment(format!(
            "cannot use the certificate {}: {error}",
            root_certificate.display()
        ))
    })
}

fn generate() -> std::result::Result<Certificates, ErrorStack> {
    let root_key = new_key()?;
    let mut root = new_certificate("citus_fence test authority", &root_key)?;
    let issuer = name("citus_fence test authority")?;
    root.set_issuer_name(&issuer)?;
    root.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    root.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    root.sign(&root_key, MessageDigest::sha256())?;
    let root = root.build();

    let server_key = new_key()?;
    let mut server = new_certificate("127.0.0.1", &server_key)?;
    server.set_issuer_name(&issuer)?;
    server.append_extension(BasicConstraints::new().critical().build()?)?;
    server.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let names = SubjectAlternativeName::new()
        .ip("127.0.0.1")
        .dns("localhost")
        .build(&server.x509v3_context(Some(&root), None))?;
    server.append_extension(names)?;
    server.sign(&root_key, MessageDigest::sha256())?;

    Ok(Certificates {
        root: root.to_pem()?,
        server: server.build().to_pem()?,
        server_key: server_key.private_key_to_pem_pkcs8()?,
    })
}

fn new_key() -> std::result::Result<PKey<Private>, ErrorStack> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&curve)?)
}

fn name(common_name: &str) -> std::result::Result<openssl::x509::X509Name, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(name.build())
}

/// A version 3 certificate for a week, without issuer, extensions and signature.
fn new_certificate(
    common_name: &str,
    key: &PKey<Private>,
) -> std::result::Result<X509Builder, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(120, MsbOption::MAYBE_ZERO, false)?;
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    certificate.set_serial_number(&*serial.to_asn1_integer()?)?;
    certificate.set_subject_name(&*name(common_name)?)?;
    certificate.set_pubkey(key)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(7)?)?;
    Ok(certificate)
}
