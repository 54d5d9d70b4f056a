//! The parent side of the sandboxed media child: protocol and driver, no FFmpeg
