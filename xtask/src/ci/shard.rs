//! Parts of a whole: `2/3` is the second of three. Which part something belongs to follows from its name alone, so that
//! every machine splits alike and each test is in exactly one part.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub index: u32,
    pub count: u32,
}

impl Shard {
    pub const WHOLE: Shard = Shard { index: 1, count: 1 };

    /// Whether `name` belongs to this part.
    pub fn holds(self, name: &str) -> bool {
        // FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash % u64::from(self.count) == u64::from(self.index - 1)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if 1 <= index && index <= count && count <= 1000 => {
                Ok(Shard { index, count })
            }
            _ => Err(format!("{text:?} is no part of a whole; write I/N with 1 <= I <= N, such as 1/2")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_others_refused() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        assert_eq!(Shard { index: 2, count: 3 }.to_string(), "2/3");
        for bad in ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/5000"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_name_is_in_exactly_one_part_and_no_part_is_empty() {
        let names: Vec<String> = (0..400).map(|i| format!("module::test_{i}")).collect();
        for count in 1..=8 {
            let parts: Vec<Shard> = (1..=count).map(|index| Shard { index, count }).collect();
            for name in &names {
                assert_eq!(parts.iter().filter(|part| part.holds(name)).count(), 1, "{name} of {count}");
            }
            for part in parts {
                let held = names.iter().filter(|name| part.holds(name)).count();
                assert!(held * count as usize > names.len() / 2, "{part} holds {held}");
            }
        }
    }
}
