//! Server-sent events (HTML, section 9.2), line by line. Lines end with a line feed, with or without a carriage return.
//!
//! Limits: an event whose data has more than [`DATA_BYTES_MAX`] is dropped.

/// Longest data of one event in bytes.
pub const DATA_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its id; `None` when it carries none of its own.
    pub id: Option<String>,
    /// Its name; `message` when it carries none.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// Makes events of lines.
#[derive(Debug, Default)]
pub struct SseParser {
    id: Option<String>,
    name: String,
    data: Option<String>,
    is_too_long: bool,
}

impl SseParser {
    /// Takes the next line without its end; an empty one completes an event.
    pub fn push_line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            return self.finish_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        // HTML, 9.2.6: one space behind the colon belongs to the field, further ones to the value.
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.push_data(value),
            // An id with a NUL would not survive being sent back.
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments, `retry` and what is unknown.
            _ => {}
        }
        None
    }

    fn push_data(&mut self, value: &str) {
        let data = self.data.get_or_insert_default();
        if data.len() + value.len() >= DATA_BYTES_MAX {
            self.is_too_long = true;
            return;
        }
        data.push_str(value);
        data.push('\n');
    }

    fn finish_event(&mut self) -> Option<SseEvent> {
        let Self { id, name, data, is_too_long } = std::mem::take(self);
        let mut data = data.filter(|_| !is_too_long)?;
        data.pop();
        Some(SseEvent { id, name: if name.is_empty() { "message".into() } else { name }, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        text.lines().filter_map(|line| parser.push_line(line)).collect()
    }

    fn event(id: Option<&str>, name: &str, data: &str) -> SseEvent {
        SseEvent { id: id.map(str::to_owned), name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_read() {
        let text = "retry: 1000\n\nid: 1a-7\nevent: media.ready\ndata: {\"a\": 1}\n\n: still here\n\n\
                    event: job.progress\ndata:{}\n\ndata: one\ndata:  two\ndata\n\n";
        assert_eq!(
            events(text),
            [
                event(Some("1a-7"), "media.ready", "{\"a\": 1}"),
                event(None, "job.progress", "{}"),
                event(None, "message", "one\n two\n"),
            ]
        );
    }

    #[test]
    fn what_is_no_event_is_none() {
        for text in ["", "\n\n", ": comment\n\n", "event: x\n\n", "id: 7\n\n", "data: unfinished\n"] {
            assert_eq!(events(text), [], "{text:?}");
        }
    }

    #[test]
    fn an_event_above_the_limit_is_dropped_and_the_next_one_is_not() {
        let text = format!("data: {}\n\ndata: next\n\n", "x".repeat(DATA_BYTES_MAX));
        assert_eq!(events(&text), [event(None, "message", "next")]);
    }
}
