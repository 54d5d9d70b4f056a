//! The words of a text as the library takes them, one after another.

use tantivy::{
    Index,
    tokenizer::{TextAnalyzer, Token, TokenStream, Tokenizer},
};

use super::words::{Word, split_words};

/// Name of the tokenizer in the schema.
pub(super) const TOKENIZER: &str = "media_words";

/// Lets an index cut texts into our words.
pub(super) fn register_tokenizer(index: &Index) {
    index.tokenizers().register(TOKENIZER, TextAnalyzer::from(MediaTokenizer));
}

#[derive(Debug, Clone, Copy)]
struct MediaTokenizer;

impl Tokenizer for MediaTokenizer {
    type TokenStream<'a> = WordStream;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream {
        WordStream { words: split_words(text).into_iter().enumerate(), token: Token::default() }
    }
}

struct WordStream {
    words: std::iter::Enumerate<std::vec::IntoIter<Word>>,
    /// Nobody reads where it stands in the text: what is shown is marked by [`super::highlight`].
    token: Token,
}

impl TokenStream for WordStream {
    fn advance(&mut self) -> bool {
        let Some((position, word)) = self.words.next() else { return false };
        (self.token.position, self.token.text) = (position, word.text);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}
