//! The keys and certificates of a rig's API server.
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The files, all PEM.
#[derive(Debug)]
pub(crate) struct Pki {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The key that signs the tokens of service accounts, and its public half.
    pub(crate) accounts_key: PathBuf,
    pub(crate) accounts_public: PathBuf,
}

impl Pki {
    /// Makes an authority, a certificate of it for `names` (DNS names and addresses), and the key of service accounts.
    pub(crate) fn create(directory: &Path, names: Vec<String>) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let file = |name: &str| directory.join(name);
        let files = Self {
            authority: file("ca.crt"),
            certificate: file("api.crt"),
            key: file("api.key"),
            accounts_key: file("accounts.key"),
            accounts_public: file("accounts.pub"),
        };
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "rig");
        fs::write(&files.authority, authority.self_signed(&authority_key)?.pem())?;

        let key = KeyPair::generate()?;
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;
        fs::write(&files.certificate, certificate.pem())?;
        fs::write(&files.key, key.serialize_pem())?;

        let accounts = KeyPair::generate()?;
        fs::write(&files.accounts_key, accounts.serialize_pem())?;
        fs::write(&files.accounts_public, accounts.public_key_pem())?;
        Ok(files)
    }
}
