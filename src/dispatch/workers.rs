//! Follows what live workers say of themselves in the bucket `workers`.

use nats::{ReaderStart, reader::ReaderConfig};
use schemas::{KvRecord, subjects, worker::WorkerRecord};

use crate::dispatcher::Dispatcher;

/// Follows the workers, for as long as it is waited for.
pub(crate) async fn follow_workers(dispatcher: &Dispatcher) {
    let bucket = WorkerRecord::BUCKET;
    loop {
        let settings = ReaderConfig::new(
            subjects::kv_stream_name(bucket),
            vec![subjects::worker_filter(dispatcher.queue().name())],
            ReaderStart::LastPerSubject,
        );
        let mut reader = dispatcher.bus().follow_stream("dispatch-workers", settings);
        while let Ok(entry) = reader.next().await {
            let key = entry.subject.as_str();
            match nats::decode_record::<WorkerRecord>(key, &entry.payload) {
                Ok((_, worker)) => dispatcher.note_worker(key, &worker),
                // An empty one proves that a process can write, and says nothing of slots; a marker says that a worker stopped.
                Err(_) => dispatcher.forget_worker(key),
            }
        }
        // Another bucket of the same name: what was known of the old one says nothing.
    }
}
