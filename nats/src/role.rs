//! Who connects to the bus, and with which rights.

/// The enum and what follows from its list, so that no role can be left out of it.
macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident $name:literal)*) => {
        /// A role of the product; each has its own user on the broker.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Role {
            $($(#[$doc])* $role,)*
        }

        impl Role {
            /// All roles.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$role),*];

            /// Name in configuration, logs and event sources.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$role => $name,)*
                }
            }

            /// File with the seed of this role, in lines `role seed`. That of [`Role::Reader`] is apart: processes of versions that do
            /// not know it refuse a file that names it.
            pub const fn seeds_file(self) -> &'static str {
                match self {
                    Self::Reader => "reader-seed",
                    _ => "seeds",
                }
            }

            /// Prefix of the inboxes this role may subscribe to.
            pub const fn inbox_prefix(self) -> &'static str {
                match self {
                    $(Self::$role => concat!("_INBOX_", $name),)*
                }
            }

            /// Prefix of the subjects at which this role receives answers of other roles. Those who answer have the right to publish where
            /// answers of theirs are expected, `answer.*.<who is asked>.*`, and not a right to answer what was received: with that the server remembers each message that it delivers,
            /// those of streams, too, and looks through all of them again and again.
            pub const fn answer_prefix(self) -> &'static str {
                match self {
                    $(Self::$role => concat!("answer.", $name),)*
                }
            }

            /// Prefix of the subjects by which this role asks JetStream.
            pub const fn api_prefix(self) -> &'static str {
                match self {
                    Self::Reader => "reader.API",
                    _ => "$JS.API",
                }
            }
        }
    };
}

roles! {
    /// HTTP.
    Ingress "ingress"
    /// The upload stage.
    Upload "upload"
    /// The transcode stage.
    Transcode "transcode"
    /// The tasks stage.
    Tasks "tasks"
    /// The index stage.
    Index "index"
    /// The audit stage.
    Audit "audit"
    /// The monitor.
    Monitor "monitor"
    /// The singletons.
    Keeper "keeper"
    /// Programs of the operator that follow what happens; in an account of its own.
    Reader "reader"
    /// Operations: topology, dead letters.
    Admin "admin"
}
