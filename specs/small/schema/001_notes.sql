create table notes (
    author_id bigint not null,
    note_id   bigint not null,
    body      text not null,
    written   timestamptz not null default now(),
    primary key (author_id, note_id)
);
