//! Words of texts, as they are indexed, looked for and marked: one rule for all three.
//!
//! A word is a run of letters, digits and marks, without regard to case, width and accents: `Crème` is `creme`, `Straße` is
//! `strasse`. Apostrophes and characters without width within a word are left out. Scripts that are written without blanks (Han, kana,
//! Thai, Lao, Khmer, Burmese) are cut into pairs of characters that overlap, and the last character alone: 東京都 is 東京, 京都 and 都,
//! so that every part of it is found. Korean is written with blanks, and its syllables are words like others.
//!
//! Limits: a word has at most [`WORD_CHARS_MAX`] characters, what is beyond is not looked at.

use tantivy::tokenizer::{AsciiFoldingFilter, RawTokenizer, TextAnalyzer, TokenStream as _};
use unicode_normalization::{UnicodeNormalization as _, char::is_combining_mark};

/// Most characters of a word.
pub(super) const WORD_CHARS_MAX: usize = 64;

/// What a word is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordKind {
    /// A word between others.
    Plain,
    /// A pair of characters of a run without blanks.
    Pair,
    /// The last character of such a run, alone.
    Tail,
}

/// A word of a text. Its position is its place among all words of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// As it is compared.
    pub(super) text: String,
    pub(super) kind: WordKind,
    /// First character in the text, and the one behind the last.
    pub(super) chars: (u32, u32),
}

/// All words of a text, in order.
pub(super) fn split_words(text: &str) -> Vec<Word> {
    let mut splitter = WordSplitter::default();
    let mut chars = text.chars().peekable();
    let mut at: u32 = 0;
    while let Some(next) = chars.next() {
        splitter.take(next, chars.peek().copied(), at);
        at = at.saturating_add(1);
    }
    splitter.end_word();
    splitter.end_run();
    splitter.words
}

/// A piece of the text that is being read.
#[derive(Debug, Default)]
struct TextPiece {
    raw: String,
    chars: (u32, u32),
}

#[derive(Default)]
struct WordSplitter {
    words: Vec<Word>,
    word: TextPiece,
    run: Vec<TextPiece>,
    folder: WordFolder,
}

impl WordSplitter {
    fn take(&mut self, next: char, following: Option<char>, at: u32) {
        if is_without_width(next) {
            return;
        }
        if !self.run.is_empty() && is_run_mark(next) {
            if let Some(last) = self.run.last_mut() {
                last.raw.push(next);
                last.chars.1 = at + 1;
            }
        } else if is_run_char(next) {
            self.end_word();
            self.run.push(TextPiece { raw: next.into(), chars: (at, at + 1) });
        } else if next.is_alphanumeric() || (is_combining_mark(next) && !self.word.raw.is_empty()) {
            self.end_run();
            if self.word.raw.is_empty() {
                self.word.chars.0 = at;
            }
            self.word.raw.push(next);
            self.word.chars.1 = at + 1;
        } else {
            let is_inner = matches!(next, '\'' | '\u{2019}') && following.is_some_and(char::is_alphanumeric);
            if !is_inner {
                self.end_word();
            }
            self.end_run();
        }
    }

    fn end_word(&mut self) {
        if self.word.raw.is_empty() {
            return;
        }
        let piece = std::mem::take(&mut self.word);
        self.push(&piece.raw, WordKind::Plain, piece.chars);
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        for pair in run.windows(2) {
            if let [first, second] = pair {
                let raw = format!("{}{}", first.raw, second.raw);
                self.push(&raw, WordKind::Pair, (first.chars.0, second.chars.1));
            }
        }
        if let Some(last) = run.last() {
            self.push(&last.raw, WordKind::Tail, last.chars);
        }
    }

    fn push(&mut self, raw: &str, kind: WordKind, chars: (u32, u32)) {
        let text = self.folder.fold_word(raw);
        if !text.is_empty() {
            self.words.push(Word { text, kind, chars });
        }
    }
}

/// Zero width space and joiners, soft hyphen, word joiner, byte order mark, variation selectors.
const fn is_without_width(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{fe00}'..='\u{fe0f}')
}

/// A character of a script that is written without blanks.
const fn is_run_char(c: char) -> bool {
    matches!(c,
        '\u{e01}'..='\u{e3a}' | '\u{e40}'..='\u{e4e}' | '\u{e81}'..='\u{ecd}'
        | '\u{1000}'..='\u{103f}' | '\u{1780}'..='\u{17d3}'
        | '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{3096}' | '\u{309d}'..='\u{309f}'
        | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9d}' | '\u{20000}'..='\u{3ffff}')
}

/// Sound marks that belong to the kana before them.
const fn is_run_mark(c: char) -> bool {
    matches!(c, '\u{3099}' | '\u{309a}' | '\u{ff9e}' | '\u{ff9f}')
}

/// Brings words into the form in which they are compared.
#[derive(Default)]
struct WordFolder(Option<TextAnalyzer>);

impl WordFolder {
    fn fold_word(&mut self, raw: &str) -> String {
        if raw.is_ascii() {
            let mut word = raw.to_ascii_lowercase();
            word.truncate(WORD_CHARS_MAX);
            return word;
        }
        // Cut before anything is made of it: a hostile word may have any length.
        let cut: String = raw.chars().take(2 * WORD_CHARS_MAX).collect();
        let lower = cut.nfkd().collect::<String>().to_lowercase();
        let plain: String = lower.chars().filter(|c| !matches!(c, '\u{300}'..='\u{36f}')).nfc().collect();
        // Most texts need none.
        let analyzer = self.0.get_or_insert_with(|| {
            TextAnalyzer::builder(RawTokenizer::default()).filter(AsciiFoldingFilter).build()
        });
        let mut stream = analyzer.token_stream(&plain);
        let folded = if stream.advance() { stream.token().text.as_str() } else { "" };
        folded.chars().take(WORD_CHARS_MAX).collect()
    }
}

/// A title as it is sorted: its words, at most `bytes_max` bytes of them.
pub(super) fn fold_title(title: &str, bytes_max: usize) -> String {
    let mut folder = WordFolder::default();
    let head: String = title.trim_start().chars().take(2 * bytes_max).collect();
    let mut sorted = String::new();
    for word in head.split_whitespace() {
        let word = folder.fold_word(word);
        if !sorted.is_empty() {
            sorted.push(' ');
        }
        for c in word.chars() {
            if sorted.len() + c.len_utf8() > bytes_max {
                return sorted;
            }
            sorted.push(c);
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        split_words(text).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn case_width_accents_and_apostrophes_do_not_matter() {
        assert_eq!(words("Crème BRÛLÉE, Straße"), ["creme", "brulee", "strasse"]);
        assert_eq!(words("cre\u{300}me"), ["creme"], "decomposed, as some systems name files");
        assert_eq!(words("ＦＵＬＬ width"), ["full", "width"]);
        assert_eq!(words("don't rock’n'roll 'quoted'"), ["dont", "rocknroll", "quoted"]);
        assert_eq!(words("my_clip-2024.mp4"), ["my", "clip", "2024", "mp4"]);
        assert_eq!(words("Ελλάδα Москва हिन्दी"), ["ελλαδα", "москва", "हिन्दी"]);
        assert_eq!(words("\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}"), ["한글"]);
        assert_eq!(words("za\u{200b}p\u{feff}"), ["zap"]);
        assert_eq!(words("\u{200b}\"'()[]{}*?\\^$"), Vec::<String>::new());
    }

    #[test]
    fn scripts_without_blanks_are_cut_into_pairs() {
        assert_eq!(words("東京都 tower"), ["東京", "京都", "都", "tower"]);
        assert_eq!(words("か\u{3099}く"), ["がく", "く"]);
        assert_eq!(words("ｶﾞｸ"), ["ガク", "ク"]);
        let found = split_words("a東京");
        assert_eq!(found.iter().map(|word| word.chars).collect::<Vec<_>>(), [(0, 1), (1, 3), (2, 3)]);
    }

    #[test]
    fn long_words_are_cut() {
        for long in ["x".repeat(100_000), "é".repeat(100_000), "\u{301}".repeat(100_000)] {
            assert!(words(&long).iter().all(|word| word.chars().count() <= WORD_CHARS_MAX));
        }
        assert_eq!(fold_title("  The ÉND ", 6), "the en");
        assert_eq!(fold_title("The end", 64), "the end");
    }

    proptest! {
        #[test]
        fn words_lie_in_their_text_and_fold_to_themselves(text in "\\PC{0,80}") {
            let length = u32::try_from(text.chars().count()).unwrap();
            for word in split_words(&text) {
                prop_assert!(word.chars.0 < word.chars.1 && word.chars.1 <= length, "{:?}", word);
            }
        }
    }
}
