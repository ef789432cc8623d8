"""Pages and tables that people read: self-contained HTML files and the terminal. Nothing is computed here."""
