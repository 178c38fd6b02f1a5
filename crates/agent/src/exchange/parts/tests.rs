//! Lists of parts that an agent takes.

use gantry_blobs::{DigestHasher, PART_SIZE};

use super::*;

#[test]
fn takes_a_list_that_covers_the_layer() {
    let size = PART_SIZE * 5 / 2;
    let digest = DigestHasher::of(b"a layer");
    let descriptor = Descriptor { media_type: String::new(), digest: digest.clone(), size, platform: None };
    let list = |size, part_size, count| LayerParts { size, part_size, digests: vec![digest.clone(); count] };
    for (list, expected) in [
        (list(size, PART_SIZE, 3), true),
        (list(size, PART_SIZE * 4, 1), true),
        (list(size, PART_SIZE, 2), false),
        (list(size, PART_SIZE, 4), false),
        (list(size + 1, PART_SIZE, 3), false),
        // Parts that are too small to be worth their request, and parts that are larger than the layer.
        (list(size, 1, 3), false),
        (list(size, 0, 3), false),
        (list(size, u64::MAX, 1), false),
    ] {
        assert_eq!(is_complete(&list, &descriptor), expected, "{list:?}");
    }
}
