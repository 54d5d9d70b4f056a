//! The bus: topology, publishing, state records, the consume loop
