import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import org.postgresql.PGConnection;

/** What a JDBC application does, through the router: arguments are URL, user, password, two keys. */
public class JdbcClient {
    static final String INSERT = "INSERT INTO entry (k, id) VALUES (?, ?)";

    public static void main(String[] arguments) throws Exception {
        long[] keys = {Long.parseLong(arguments[3]), Long.parseLong(arguments[4])};
        try (Connection client =
                DriverManager.getConnection(arguments[0], arguments[1], arguments[2])) {
            prepared(client, keys);
            transactions(client, keys);
            batches(client, keys);
            copy(client, keys);
            errors(client, keys);
        }
        System.out.println("done");
    }

    /** More than five times, from where the driver uses a named statement and binary parameters. */
    static void prepared(Connection client, long[] keys) throws SQLException {
        try (PreparedStatement insert = client.prepareStatement(INSERT);
                PreparedStatement count =
                        client.prepareStatement("SELECT count(*) FROM entry WHERE k = ?")) {
            for (int turn = 0; turn < 20; turn++) {
                insert.setLong(1, keys[turn % 2]);
                insert.setString(2, "p" + turn);
                insert.executeUpdate();
                count.setLong(1, keys[turn % 2]);
                expect(turn / 2 + 1, one(count));
            }
        }
    }

    static void transactions(Connection client, long[] keys) throws SQLException {
        client.setAutoCommit(false);
        client.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        for (long key : keys) {
            insert(client, key, "committed " + key);
            client.commit();
            insert(client, key, "rolled back " + key);
            client.rollback();
        }
        insert(client, keys[0], "first");
        refused("0A000", () -> insert(client, keys[1], "second"));
        client.rollback();
        try (PreparedStatement fetch =
                client.prepareStatement("SELECT id FROM entry WHERE k = ?")) {
            fetch.setFetchSize(3); // a portal that is read in parts
            fetch.setLong(1, keys[0]);
            int rows = 0;
            try (ResultSet found = fetch.executeQuery()) {
                while (found.next()) rows++;
            }
            expect(11, rows);
        }
        client.commit();
        client.setAutoCommit(true);
    }

    static void batches(Connection client, long[] keys) throws SQLException {
        try (PreparedStatement insert = client.prepareStatement(INSERT)) {
            for (int turn = 0; turn < 300; turn++) {
                insert.setLong(1, keys[1]);
                insert.setString(2, "b" + turn);
                insert.addBatch();
            }
            expect(300, insert.executeBatch().length);
        }
    }

    static void copy(Connection client, long[] keys) throws Exception {
        String rows = keys[0] + "\tc0\n" + keys[0] + "\tc1\n";
        String into = "/* shard_key: " + keys[0] + " */ COPY entry FROM STDIN";
        expect(2, client.unwrap(PGConnection.class).getCopyAPI().copyIn(into, new StringReader(rows)));
    }

    static void errors(Connection client, long[] keys) throws SQLException {
        refused("23505", () -> insert(client, keys[1], "b1"));
        refused("0A000", () -> client.createStatement().executeQuery("SELECT * FROM entry"));
        try (Statement slow = client.createStatement()) {
            slow.setQueryTimeout(1);
            refused("57014", () -> slow.execute("SELECT pg_sleep(60)"));
        }
        try (Statement read = client.createStatement()) {
            read.execute("SET shardwright.key = '" + keys[0] + "'");
            try (ResultSet found = read.executeQuery("SELECT count(*) FROM entry")) {
                found.next();
                expect(13, found.getLong(1));
            }
        }
    }

    interface Action {
        void run() throws SQLException;
    }

    static void refused(String state, Action action) {
        try {
            action.run();
        } catch (SQLException refusal) {
            if (state.equals(refusal.getSQLState())) return;
            throw new AssertionError(refusal.getSQLState() + " " + refusal.getMessage());
        }
        throw new AssertionError("not refused: " + state);
    }

    static void insert(Connection client, long key, String ident) throws SQLException {
        try (PreparedStatement insert = client.prepareStatement(INSERT)) {
            insert.setLong(1, key);
            insert.setString(2, ident);
            insert.executeUpdate();
        }
    }

    static long one(PreparedStatement query) throws SQLException {
        try (ResultSet found = query.executeQuery()) {
            found.next();
            return found.getLong(1);
        }
    }

    static void expect(long wanted, long got) {
        if (wanted != got) throw new AssertionError("wanted " + wanted + ", got " + got);
    }
}
