create table countries (
    code char(2) primary key,
    name text not null
);

create table customers (
    id      bigint primary key,
    name    text not null,
    email   text not null,
    country char(2) not null references countries,
    joined  timestamptz not null default now()
);

create index customers_email on customers (email);
