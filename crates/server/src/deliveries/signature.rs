//! The signature of a callback: proof that this cluster sent it, and when.
//!
//! `Gantry-Signature: t=1790000000,v1=5257a8…`. `v1` is the HMAC-SHA256 of `t`, a dot and the body, in hexadecimal digits,
//! with the text of the project's key. After a rotation, a second `v1` is by the previous key.

use gantry_model::Moment;
use gantry_queue_store::SigningKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Name of the header.
pub(super) const HEADER: &str = "gantry-signature";

/// Time after a rotation during which the previous key signs as well, in milliseconds: a day.
const ROTATION: u64 = 86_400_000;

/// The value of the header.
pub(super) fn signature(key: &SigningKey, body: &[u8], now: Moment) -> String {
    let seconds = now.0 / 1000;
    let previous = key.previous.as_ref().filter(|(_, rotated)| now.since(*rotated) < ROTATION);
    let keys = [Some(&key.current), previous.map(|(key, _)| key)];
    let mut value = format!("t={seconds}");
    for key in keys.into_iter().flatten() {
        value.push_str(",v1=");
        value.push_str(&hex::encode(mac(key, seconds, body)));
    }
    value
}

fn mac(key: &str, seconds: u64, body: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else {
        unreachable!("HMAC takes a key of any length")
    };
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_time_and_the_body() {
        let key = SigningKey { current: "key".to_owned(), previous: None };
        // As computed by OpenSSL: printf '1790000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "t=1790000000,v1=099d33989336226b12c85da813adf6100e1bbab1e91bede9a41ddeb7882d66b8";
        assert_eq!(signature(&key, b"{}", Moment(1_790_000_000_123)), expected);
    }

    #[test]
    fn a_rotated_key_signs_for_a_day() {
        let key = SigningKey { current: "new".to_owned(), previous: Some(("old".to_owned(), Moment(0))) };
        let count = |now| signature(&key, b"{}", Moment(now)).matches(",v1=").count();
        assert_eq!((count(ROTATION - 1), count(ROTATION)), (2, 1));
    }
}
