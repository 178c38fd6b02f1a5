//! Names and attributes by which overlayfs and OCI layers mark removed files.

/// Prefix of a whiteout: the layer removes the file with the rest of the name.
pub(crate) const WHITEOUT: &str = ".wh.";

/// Name of the file that marks a folder as opaque: the layer hides everything that lower layers have in the folder.
pub(crate) const OPAQUE: &str = ".wh..wh..opq";

/// Extended attribute by which overlayfs marks an opaque folder.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Extended attribute with the capabilities of a file.
pub(crate) const CAPABILITIES: &str = "security.capability";

/// Returns whether a layer may carry the extended attribute. Allowed are a program's own attributes and file
/// capabilities. The attributes of overlayfs and of access control belong to the machine.
pub(crate) fn may_carry(xattr: &str) -> bool {
    let overlay = xattr.starts_with("user.overlay.");
    (xattr.starts_with("user.") && !overlay) || xattr == CAPABILITIES
}

/// Prefix of the extended attributes with the access control lists of a file.
const ACL: &str = "system.posix_acl_";

/// Reports whether an archive of a volume may carry the extended attribute. A volume is no layer of overlayfs, and its
/// access control lists belong to the application.
#[must_use]
pub fn volume_may_carry(xattr: &str) -> bool {
    xattr.starts_with("user.") || xattr.starts_with(ACL) || xattr == CAPABILITIES
}
