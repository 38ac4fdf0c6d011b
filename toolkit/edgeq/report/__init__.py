"""What people read: tables, the HTML report, the model card."""
