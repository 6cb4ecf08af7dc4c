"""What people look at after a run: charts, pictures, and one page that has everything."""
