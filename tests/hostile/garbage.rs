//! Seeded garbage: noise, and damaged copies of what is right. The tests of each crate that parses bytes from outside take it by its
//! path.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What a damaged copy may get in place of some of its bytes.
const BITS_OF_SYNTAX: &[&[u8]] = &[
    b"[[[[[[[[",
    b"{\"a\":",
    b"}",
    b"\"",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"%ff",
    b"%",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"\n",
    b"\0",
    b"=",
    b"&",
    b"/",
    b"\xff\xff\xff\xff",
    b"\xf0\x9f\x8e\xac",
    b",",
    b":",
    b"*",
    b"-",
    b"..",
];

/// Runs `entry` over noise and over copies of `seeds`, each damaged in up to four places.
pub(crate) fn over_garbage(rounds: usize, seeds: &[&[u8]], entry: impl Fn(&[u8])) {
    let mut chance = StdRng::seed_from_u64(42);
    for seed in seeds {
        entry(seed);
        for end in 0..seed.len().min(400) {
            entry(&seed[..end]);
        }
    }
    for _ in 0..rounds {
        let noise: Vec<u8> = (0..chance.random_range(0..200)).map(|_| chance.random()).collect();
        entry(&noise);
        let mut bytes = seeds[chance.random_range(0..seeds.len())].to_vec();
        for _ in 0..chance.random_range(1..=4) {
            let at = chance.random_range(0..=bytes.len());
            let end = (at + chance.random_range(0..6)).min(bytes.len());
            match chance.random_range(0..4) {
                0 => bytes[at..end].fill(chance.random()),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = BITS_OF_SYNTAX[chance.random_range(0..BITS_OF_SYNTAX.len())];
                    bytes.splice(at..end, piece.iter().copied());
                }
                _ => {
                    let piece = bytes[at..].iter().take(60).copied().collect::<Vec<u8>>();
                    let to = chance.random_range(0..=bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
        entry(&bytes);
    }
}

/// As [`over_garbage`], for what takes text.
#[allow(dead_code, reason = "not every crate has such a parser")]
pub(crate) fn over_text(rounds: usize, seeds: &[&str], entry: impl Fn(&str)) {
    let seeds: Vec<&[u8]> = seeds.iter().map(|seed| seed.as_bytes()).collect();
    over_garbage(rounds, &seeds, |bytes| entry(&String::from_utf8_lossy(bytes)));
}
