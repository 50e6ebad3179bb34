//! Mutual TLS: both sides show a certificate of the same authority, and each checks who the other one is.
//!
//! Names of hosts are not checked, because servers are found by address: what counts is the common name or the
//! URI name of the certificate.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::config::Pem;
use crate::error::StoreError;

/// Certificates of one side and what it demands of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Own certificate chain.
    pub cert: Pem,
    /// Own private key.
    pub key: Pem,
    /// Authority of the other side's certificate.
    pub ca: Pem,
    /// Common name the other side may have.
    pub peer_cn: Option<String>,
    /// URI name the other side may have. With both given, one of them is enough.
    pub peer_uri: Option<String>,
}

fn wrong(name: &str, reason: impl std::fmt::Display) -> StoreError {
    StoreError::Config { name: name.to_owned(), reason: reason.to_string() }
}

impl TlsSettings {
    fn chain(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), StoreError> {
        if self.peer_cn.is_none() && self.peer_uri.is_none() {
            return Err(wrong(
                "CN",
                "with TLS a common name (CN) or a URI name (URISAN) of the peer must be set",
            ));
        }
        let text = self.cert.read("CERTFILE")?;
        let chain = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong("CERTFILE", error))?;
        let text = self.key.read("KEYFILE")?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong("KEYFILE", error))?;
        Ok((chain, key))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, StoreError> {
        let text = self.ca.read("CAFILE")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong("CAFILE", error))?;
            roots.add(certificate).map_err(|error| wrong("CAFILE", error))?;
        }
        if roots.is_empty() {
            return Err(wrong("CAFILE", "holds no certificate"));
        }
        Ok(Arc::new(roots))
    }

    /// For a server: clients must show a certificate.
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the setting.
    pub fn server(&self) -> Result<Arc<ServerConfig>, StoreError> {
        let (chain, key) = self.chain()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
            .build()
            .map_err(|error| wrong("CAFILE", error))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("TLS", error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| wrong("KEYFILE", error))?;
        Ok(Arc::new(config))
    }

    /// For a client.
    ///
    /// # Errors
    /// [`StoreError::Config`] naming the setting.
    pub fn client(&self) -> Result<Arc<ClientConfig>, StoreError> {
        let (chain, key) = self.chain()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
            .build()
            .map_err(|error| wrong("CAFILE", error))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("TLS", error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyHost(inner)))
            .with_client_auth_cert(chain, key)
            .map_err(|error| wrong("KEYFILE", error))?;
        Ok(Arc::new(config))
    }

    /// Whether the certificate of the other side names somebody who may talk to us.
    ///
    /// # Errors
    /// [`StoreError::Unauthorised`] with the names that were found and those that would be right.
    pub fn check_peer(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<(), StoreError> {
        let refuse = |reason: String| StoreError::Unauthorised { store: "TLS peer".to_owned(), reason };
        let leaf =
            certificates.and_then(<[_]>::first).ok_or_else(|| refuse("shows no certificate".to_owned()))?;
        let parsed = webpki::EndEntityCert::try_from(leaf).map_err(|error| refuse(error.to_string()))?;
        let name = common_name(parsed.subject());
        let uris: Vec<&str> = parsed.valid_uri_names().collect();
        let named = self.peer_cn.is_some() && self.peer_cn == name;
        let located = self.peer_uri.as_deref().is_some_and(|uri| uris.contains(&uri));
        if named || located {
            return Ok(());
        }
        Err(refuse(format!(
            "certificate is for common name {name:?} and URI names {uris:?}, expected {:?} or {:?}",
            self.peer_cn, self.peer_uri
        )))
    }
}

/// Checks the chain as always and leaves the name of the host out.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Object identifier 2.5.4.3, common name.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The common name in an X.501 name without its outer sequence header, if it is there once and is text.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = None;
    while !subject.is_empty() {
        let (set, rest) = element(subject, 0x31)?;
        subject = rest;
        let (pair, _) = element(set, 0x30)?;
        let (identifier, text) = element(pair, 0x06)?;
        if identifier != COMMON_NAME {
            continue;
        }
        // UTF8String, PrintableString, IA5String.
        let value = [0x0c, 0x13, 0x16].into_iter().find_map(|tag| element(text, tag))?.0;
        let text = std::str::from_utf8(value).ok()?.to_owned();
        if found.replace(text).is_some() {
            return None;
        }
    }
    found
}

/// Content of a DER element with this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names() {
        let attribute = |oid: &[u8], tag: u8, text: &[u8]| {
            let mut pair = vec![0x06, oid.len() as u8];
            pair.extend(oid);
            pair.extend([tag, text.len() as u8]);
            pair.extend(text);
            let mut set = vec![0x31, pair.len() as u8 + 2, 0x30, pair.len() as u8];
            set.extend(pair);
            set
        };
        let organisation = attribute(&[0x55, 0x04, 0x0a], 0x13, b"ACME");
        let name = attribute(COMMON_NAME, 0x0c, b"typha-server");
        let both = [organisation.clone(), name.clone()].concat();
        assert_eq!(common_name(&both).as_deref(), Some("typha-server"));
        assert_eq!(common_name(&organisation), None);
        assert_eq!(common_name(&[name.clone(), name.clone()].concat()), None, "two names are no name");
        for cut in 0..both.len() {
            let _ = common_name(&both[..cut]);
        }
        assert_eq!(common_name(&name[..name.len() - 1]), None);
    }
}
