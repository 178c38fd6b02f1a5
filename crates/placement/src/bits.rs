//! Sets of machines as bits.

/// A set of machine numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MachineBits {
    words: Vec<u64>,
    count: usize,
}

impl MachineBits {
    /// Number of machines in the set.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds or removes a machine.
    pub(crate) fn set(&mut self, machine: usize, is_in: bool) {
        let (word, bit) = (machine / 64, 1 << (machine % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let was_in = self.words[word] & bit != 0;
        match (was_in, is_in) {
            (false, true) => {
                self.words[word] |= bit;
                self.count += 1;
            }
            (true, false) => {
                self.words[word] &= !bit;
                self.count -= 1;
            }
            _ => {}
        }
    }

    /// Reports whether a machine is in the set.
    pub(crate) fn contains(&self, machine: usize) -> bool {
        self.words.get(machine / 64).is_some_and(|word| word & (1 << (machine % 64)) != 0)
    }

    /// The machines in the set, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(place, word)| ones(*word).map(move |bit| place * 64 + bit))
    }

    /// The machines that are in both sets, in order.
    pub(crate) fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let words = self.words.iter().zip(&other.words).enumerate();
        words.flat_map(|(place, (one, two))| ones(one & two).map(move |bit| place * 64 + bit))
    }
}

impl FromIterator<usize> for MachineBits {
    fn from_iter<I: IntoIterator<Item = usize>>(machines: I) -> Self {
        let mut bits = Self::default();
        machines.into_iter().for_each(|machine| bits.set(machine, true));
        bits
    }
}

/// The places of the bits of a word that are set.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        bit
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Numbers around the ends of words.
    fn numbers() -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(prop_oneof![0..8usize, 60..70usize, 120..200usize], 0..20)
    }

    proptest! {
        #[test]
        fn bits_equal_a_set(one in numbers(), two in numbers(), removed in numbers()) {
            let mut bits: MachineBits = one.iter().copied().collect();
            let other: MachineBits = two.iter().copied().collect();
            let common: Vec<usize> = one.intersection(&two).copied().collect();
            prop_assert_eq!(bits.common(&other).collect::<Vec<_>>(), common.clone());
            prop_assert_eq!(other.common(&bits).collect::<Vec<_>>(), common);
            // A machine that is removed twice, or was never in the set, changes nothing.
            removed.iter().chain(&removed).for_each(|machine| bits.set(*machine, false));
            two.iter().chain(&two).for_each(|machine| bits.set(*machine, true));
            let expected: BTreeSet<usize> = one.difference(&removed).chain(&two).copied().collect();
            prop_assert_eq!(bits.count(), expected.len());
            prop_assert_eq!(bits.iter().collect::<BTreeSet<_>>(), expected.clone());
            for machine in 0..256 {
                prop_assert_eq!(bits.contains(machine), expected.contains(&machine));
            }
        }
    }
}
