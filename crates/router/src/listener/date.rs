//! The `Date` field of responses (RFC 9110, section 6.6.1).

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// Returns the current time as a field value. Each thread formats a second once.
pub(super) fn now() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
    }
    let time = SystemTime::now();
    let second = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(known, value)| {
        if *known != second {
            let text = httpdate::fmt_http_date(time);
            *known = second;
            *value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        }
        value.clone()
    })
}
