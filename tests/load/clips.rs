//! Small files that ffmpeg makes, and bad ones made of them.

use rand::{RngExt, rngs::StdRng};

use crate::harness::{clip, sample};

/// A file that clients bring.
#[derive(Debug)]
pub(crate) struct Clip {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// What clients bring.
#[derive(Debug)]
pub(crate) struct Clips {
    good: Vec<Clip>,
    bad: Vec<Clip>,
}

impl Clips {
    /// Makes them: some seconds each.
    pub(crate) fn make() -> Self {
        let video = sample(4, "320x180", "25");
        let tone = ["-f", "lavfi", "-i", "sine=frequency=440:duration=6:sample_rate=48000", "-c:a", "aac"];
        let bad = vec![
            Clip { name: "words.mp4", bytes: b"these are words and no video\n".repeat(400) },
            Clip { name: "cut.mp4", bytes: video[..video.len() / 2].to_vec() },
            Clip { name: "damaged.mp4", bytes: damage(&video) },
        ];
        let good = vec![
            Clip { name: "short.mp4", bytes: sample(2, "320x180", "25") },
            Clip { name: "clip.mp4", bytes: video },
            Clip { name: "tone.m4a", bytes: clip(&tone, "m4a") },
        ];
        Self { good, bad }
    }

    /// One of them; `bad_percent` of 100 are bad.
    pub(crate) fn choose(&self, bad_percent: u32, random: &mut StdRng) -> &Clip {
        let clips = if random.random_range(0..100) < bad_percent { &self.bad } else { &self.good };
        &clips[random.random_range(0..clips.len())]
    }
}

/// The same file with other bytes where its pictures and tones are: it is described well, and nothing of it can be decoded.
fn damage(file: &[u8]) -> Vec<u8> {
    let mut damaged = file.to_vec();
    let at = file.windows(4).position(|bytes| bytes == b"mdat").unwrap();
    let size_bytes = u32::from_be_bytes(file[at - 4..at].try_into().unwrap()) as usize;
    damaged[at + 4..at - 4 + size_bytes].fill(0xa5);
    damaged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_behind_the_head_of_mdat_is_damaged() {
        let file = b"\0\0\0\x08ftyp\0\0\0\x0cmdatwxyz\0\0\0\x08moov";
        assert_eq!(damage(file), b"\0\0\0\x08ftyp\0\0\0\x0cmdat\xa5\xa5\xa5\xa5\0\0\0\x08moov");
    }
}
