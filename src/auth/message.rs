//! Sign-in messages of ERC-4361, read by its grammar and by nothing else.
//!
//! A message is only looked at, never rebuilt: its parts are slices of what came, and what is hashed is what came. Every accepted
//! message, written out again, gives the same bytes.
//!
//! Limits: [`LENGTH_MAX`] bytes, a statement of [`STATEMENT_LENGTH_MAX`], [`RESOURCES_MAX`] resources.

use std::fmt;

use super::{
    address::{AddressCase, AddressError, WalletAddress},
    uri,
};

/// Longest message in bytes.
pub const LENGTH_MAX: usize = 4 * 1024;
/// Longest statement in bytes.
pub const STATEMENT_LENGTH_MAX: usize = 1024;
/// Most resources.
pub const RESOURCES_MAX: usize = 16;

const INVITATION: &str = " wants you to sign in with your Ethereum account:";

/// Why a text is no sign-in message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SiweMessageError {
    /// Longer than a limit of the module.
    #[error("{0} is longer than its limit")]
    TooLong(&'static str),
    /// A byte that no part of the grammar has, such as a carriage return or a tab.
    #[error("only printable ASCII and line feeds may be in a sign-in message")]
    Character,
    /// A line is missing, in the wrong place, doubled or unknown; names what was expected.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A part does not have the form the grammar gives it.
    #[error("{0} does not have its form")]
    Form(&'static str),
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// A time as it was written and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiweTimestamp<'a> {
    /// As written.
    pub text: &'a str,
    /// Unix time in milliseconds; parts of one are dropped.
    pub at_ms: i64,
}

/// A sign-in message; see ERC-4361 for what each part means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiweMessage<'a> {
    /// Scheme of the asking site; absent means `https`.
    pub scheme: Option<&'a str>,
    /// Authority of the asking site.
    pub domain: &'a str,
    /// Whose account.
    pub address: WalletAddress,
    /// Whether the case of the address proves it.
    pub address_case: AddressCase,
    /// What the person agrees to; present and empty is not absent.
    pub statement: Option<&'a str>,
    /// What the sign-in is for.
    pub uri: &'a str,
    /// The chain the account is looked up on.
    pub chain_id: u64,
    /// The server's word that makes the message good for one time.
    pub nonce: &'a str,
    /// When it was written.
    pub issued_at: SiweTimestamp<'a>,
    /// From when on it is no longer good.
    pub expires_at: Option<SiweTimestamp<'a>>,
    /// Before when it is not good yet.
    pub not_before: Option<SiweTimestamp<'a>>,
    /// The site's own name for the request.
    pub request_id: Option<&'a str>,
    /// What the person shares; a heading without entries is not absent.
    pub resources: Option<Vec<&'a str>>,
    address_text: &'a str,
    chain_id_text: &'a str,
}

impl<'a> SiweMessage<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// Names the first part that is not as the grammar has it.
    pub fn parse(text: &'a str) -> Result<Self, SiweMessageError> {
        if text.len() > LENGTH_MAX {
            return Err(SiweMessageError::TooLong("the message"));
        }
        if !text.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')) {
            return Err(SiweMessageError::Character);
        }
        let mut lines = SiweLines { left: text.split('\n').peekable() };
        let (scheme, domain) = parse_invitation(lines.next_line("the line that names the site")?)?;
        let address_text = lines.next_line("the address")?;
        let (address, address_case) = WalletAddress::parse(address_text)?;
        let statement = lines.read_statement()?;
        let uri = lines.read_field("URI: ")?;
        check_form("the URI", uri::is_uri(uri))?;
        check_form("the version", lines.read_field("Version: ")? == "1")?;
        let chain_id_text = lines.read_field("Chain ID: ")?;
        let nonce = lines.read_field("Nonce: ")?;
        check_form("the nonce", nonce.len() >= 8 && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
        let issued_at = parse_timestamp(lines.read_field("Issued At: ")?)?;
        let expires_at = lines.read_optional("Expiration Time: ").map(parse_timestamp).transpose()?;
        let not_before = lines.read_optional("Not Before: ").map(parse_timestamp).transpose()?;
        let request_id = lines.read_optional("Request ID: ");
        check_form("the request id", request_id.is_none_or(uri::is_pchars))?;
        let resources = lines.read_resources()?;
        lines.expect_end()?;
        Ok(Self {
            scheme,
            domain,
            address,
            address_case,
            statement,
            uri,
            chain_id: parse_chain_id(chain_id_text)?,
            nonce,
            issued_at,
            expires_at,
            not_before,
            request_id,
            resources,
            address_text,
            chain_id_text,
        })
    }
}

/// Writes the message out: for every accepted message the very bytes it was read from.
impl fmt::Display for SiweMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{scheme}://")?;
        }
        write!(f, "{}{INVITATION}\n{}\n\n", self.domain, self.address_text)?;
        if let Some(statement) = self.statement {
            writeln!(f, "{statement}")?;
        }
        write!(
            f,
            "\nURI: {}\nVersion: 1\nChain ID: {}\nNonce: {}\nIssued At: {}",
            self.uri, self.chain_id_text, self.nonce, self.issued_at.text
        )?;
        if let Some(time) = self.expires_at {
            write!(f, "\nExpiration Time: {}", time.text)?;
        }
        if let Some(time) = self.not_before {
            write!(f, "\nNot Before: {}", time.text)?;
        }
        if let Some(id) = self.request_id {
            write!(f, "\nRequest ID: {id}")?;
        }
        if let Some(resources) = &self.resources {
            f.write_str("\nResources:")?;
            for resource in resources {
                write!(f, "\n- {resource}")?;
            }
        }
        Ok(())
    }
}

struct SiweLines<'a> {
    left: std::iter::Peekable<std::str::Split<'a, char>>,
}

impl<'a> SiweLines<'a> {
    fn next_line(&mut self, what: &'static str) -> Result<&'a str, SiweMessageError> {
        self.left.next().ok_or(SiweMessageError::Expected(what))
    }

    fn expect_blank(&mut self) -> Result<(), SiweMessageError> {
        const WHAT: &str = "an empty line";
        if self.next_line(WHAT)?.is_empty() { Ok(()) } else { Err(SiweMessageError::Expected(WHAT)) }
    }

    /// Between the address and the URI: two empty lines without a statement, else the statement between them.
    fn read_statement(&mut self) -> Result<Option<&'a str>, SiweMessageError> {
        self.expect_blank()?;
        let line = self.next_line("a statement or an empty line")?;
        if line.is_empty() && self.left.peek().is_none_or(|next| !next.is_empty()) {
            return Ok(None);
        }
        if line.len() > STATEMENT_LENGTH_MAX {
            return Err(SiweMessageError::TooLong("the statement"));
        }
        let is_allowed = |byte: u8| byte == b' ' || uri::is_reserved_or_unreserved(byte);
        check_form("the statement", line.bytes().all(is_allowed))?;
        self.expect_blank()?;
        Ok(Some(line))
    }

    fn read_field(&mut self, name: &'static str) -> Result<&'a str, SiweMessageError> {
        self.next_line(name)?.strip_prefix(name).ok_or(SiweMessageError::Expected(name))
    }

    fn read_optional(&mut self, name: &'static str) -> Option<&'a str> {
        let value = self.left.peek()?.strip_prefix(name)?;
        self.left.next();
        Some(value)
    }

    fn read_resources(&mut self) -> Result<Option<Vec<&'a str>>, SiweMessageError> {
        if self.left.next_if_eq(&"Resources:").is_none() {
            return Ok(None);
        }
        let mut resources = Vec::new();
        while let Some(resource) = self.read_optional("- ") {
            if resources.len() == RESOURCES_MAX {
                return Err(SiweMessageError::TooLong("the list of resources"));
            }
            check_form("a resource", uri::is_uri(resource))?;
            resources.push(resource);
        }
        Ok(Some(resources))
    }

    fn expect_end(&mut self) -> Result<(), SiweMessageError> {
        if self.left.next().is_none() {
            Ok(())
        } else {
            Err(SiweMessageError::Expected("the end of the message"))
        }
    }
}

fn check_form(what: &'static str, holds: bool) -> Result<(), SiweMessageError> {
    if holds { Ok(()) } else { Err(SiweMessageError::Form(what)) }
}

fn parse_invitation(line: &str) -> Result<(Option<&str>, &str), SiweMessageError> {
    let site = line.strip_suffix(INVITATION).ok_or(SiweMessageError::Expected(INVITATION))?;
    let (scheme, domain) = match site.split_once("://") {
        Some((scheme, domain)) => (Some(scheme), domain),
        None => (None, site),
    };
    check_form("the scheme", scheme.is_none_or(uri::is_scheme))?;
    check_form("the domain", uri::is_authority(domain))?;
    Ok((scheme, domain))
}

fn parse_chain_id(text: &str) -> Result<u64, SiweMessageError> {
    let form = SiweMessageError::Form("the chain id");
    // `parse` would take a sign, too.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(form);
    }
    text.parse().map_err(|_| form)
}

/// Reads a time of RFC 3339 section 5.6; nothing else that looks like a time.
pub(super) fn parse_timestamp(text: &str) -> Result<SiweTimestamp<'_>, SiweMessageError> {
    let form = SiweMessageError::Form("a time");
    let at_ms = parse_rfc3339_ms(text).ok_or(form)?;
    Ok(SiweTimestamp { text, at_ms })
}

fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let [year, month, day] = parse_numbers(date, '-', [4, 2, 2])?;
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, part)| (clock, Some(part)));
    let [hour, minute, second] = parse_numbers(clock, ':', [2, 2, 2])?;
    let day = i8::try_from(day).ok()?;
    let date = jiff::civil::Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, day).ok()?;
    // A leap second (60) counts as the last second of its minute, as everywhere in Unix time.
    let in_range = hour < 24 && minute < 60 && second <= 60;
    let milliseconds = fraction.map_or(Some(0), parse_fraction_ms)?;
    if !in_range {
        return None;
    }
    let days = date.since(jiff::civil::date(1970, 1, 1)).ok()?.get_days();
    let seconds = i64::from(days) * 86_400 + hour * 3_600 + minute * 60 + second.min(59);
    Some((seconds - parse_offset_s(zone)?) * 1_000 + milliseconds)
}

fn parse_offset_s(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) =
        if let Some(rest) = zone.strip_prefix('+') { (1, rest) } else { (-1, zone.strip_prefix('-')?) };
    let [hours, minutes] = parse_numbers(rest, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// One digit or more; what is finer than a millisecond is dropped.
fn parse_fraction_ms(digits: &str) -> Option<i64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scaled = digits.bytes().chain(std::iter::repeat(b'0')).take(3);
    Some(scaled.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

/// Numbers of fixed widths between separators.
fn parse_numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (slot, width) in found.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}
