//! Marks that overlayfs and OCI layers have for what is taken away.

/// Before a name: the name is gone.
pub(crate) const WHITEOUT: &str = ".wh.";

/// In a folder: everything that lower layers have in it is gone.
pub(crate) const OPAQUE: &str = ".wh..wh..opq";

/// How overlayfs says the same of a folder.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// The attribute that holds the capabilities of a file.
pub(crate) const CAPABILITIES: &str = "security.capability";

/// Extended attributes that a layer may carry: a program's own, and file capabilities. Those of overlayfs and of
/// access control belong to the machine.
pub(crate) fn may_carry(xattr: &str) -> bool {
    let overlay = xattr.starts_with("user.overlay.");
    (xattr.starts_with("user.") && !overlay) || xattr == CAPABILITIES
}
