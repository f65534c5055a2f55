insert into countries (code, name) values
    ('AT', 'Austria'), ('BE', 'Belgium'), ('CH', 'Switzerland'), ('CZ', 'Czechia'),
    ('DE', 'Germany'), ('DK', 'Denmark'), ('ES', 'Spain'), ('FR', 'France'),
    ('GB', 'United Kingdom'), ('IT', 'Italy'), ('NL', 'Netherlands'), ('PL', 'Poland'),
    ('SE', 'Sweden'), ('US', 'United States');
