//! A request on its way to an instance: the body, until an instance has it, and why there is no response.
//!
//! - [`request_body`]: the body, complete and buffered, or streamed.
//! - [`tunnel_upload`]: the body that another machine's router sends.
//! - [`send_failure`]: which failed request is still whole, so that another instance may have it.
//!
//! `upstream` sends requests to instances of this machine, `tunnel` to other machines.

pub(crate) mod request_body;
pub(crate) mod send_failure;
pub(crate) mod tunnel_upload;
