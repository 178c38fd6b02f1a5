//! When a certificate is renewed.

use std::time::Duration;

use gantry_model::Moment;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::authority::LIFE_MILLIS;

/// True once two thirds of a certificate's life are over: the certificate would not be valid a third of a life from now.
#[must_use]
pub fn is_renewal_due(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>, now: Moment) -> bool {
    !is_valid(certificate, ca, Moment(now.0 + LIFE_MILLIS / 3))
}

/// True if the authority issued the certificate, and the certificate is valid at this moment.
pub(crate) fn is_valid(certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>, at: Moment) -> bool {
    let (Ok(certificate), Ok(anchor)) = (EndEntityCert::try_from(certificate), anchor_from_trusted_cert(ca)) else {
        return false;
    };
    let time = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
    let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
    certificate.verify_for_usage(&algorithms, &[anchor], &[], time, KeyUsage::client_auth(), None, None).is_ok()
}
