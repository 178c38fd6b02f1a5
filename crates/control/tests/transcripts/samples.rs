//! Lists of samples that the compiler keeps complete.

/// The samples of an enum with their names, in one row for each variant. A variant without a row does not compile.
macro_rules! samples {
    ($type:ty { $($variant:pat => [$($name:literal: $sample:expr),* $(,)?],)+ }) => {{
        let _each_variant_has_a_row = |sample: &$type| match sample {
            $($variant => (),)+
        };
        let mut samples: Vec<(&'static str, $type)> = Vec::new();
        $($(
            let sample: $type = $sample;
            assert!(matches!(sample, $variant), "{} is in the row of another variant", $name);
            samples.push(($name, sample));
        )*)+
        samples
    }};
}

/// All values of an enum without fields. A variant that is left out does not compile.
macro_rules! words {
    ($type:ident { $($variant:ident),+ $(,)? }) => {{
        let _each_variant_is_named = |word: $type| match word {
            $($type::$variant => (),)+
        };
        vec![$($type::$variant),+]
    }};
}
