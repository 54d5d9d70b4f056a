//! Who connects to the bus, and with which rights.

/// A role of the product; each has its own user on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// HTTP.
    Ingress,
    /// The upload stage.
    Upload,
    /// The transcode stage.
    Transcode,
    /// The index stage.
    Index,
    /// The audit stage.
    Audit,
    /// The monitor.
    Monitor,
    /// The singletons.
    Keeper,
    /// Operations: topology, dead letters.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 8] = [
        Self::Ingress,
        Self::Upload,
        Self::Transcode,
        Self::Index,
        Self::Audit,
        Self::Monitor,
        Self::Keeper,
        Self::Admin,
    ];

    /// Name in configuration, logs and event sources.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Upload => "upload",
            Self::Transcode => "transcode",
            Self::Index => "index",
            Self::Audit => "audit",
            Self::Monitor => "monitor",
            Self::Keeper => "keeper",
            Self::Admin => "admin",
        }
    }

    /// Prefix of the inboxes this role may subscribe to.
    pub const fn inbox_prefix(self) -> &'static str {
        match self {
            Self::Ingress => "_INBOX_ingress",
            Self::Upload => "_INBOX_upload",
            Self::Transcode => "_INBOX_transcode",
            Self::Index => "_INBOX_index",
            Self::Audit => "_INBOX_audit",
            Self::Monitor => "_INBOX_monitor",
            Self::Keeper => "_INBOX_keeper",
            Self::Admin => "_INBOX_admin",
        }
    }
}
