import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The peer: Kafka Streams, one thread, that folds the same updates into a RocksDB store with a
 * changelog topic. Its store has a cache in memory, as the DSL gives its own, so that RocksDB and the
 * changelog get a state once a commit and not once an update.
 *
 *   java -cp 'lib/*:.' Fold BROKER TOPIC GROUP COUNT STATE_DIR
 *
 * Prints one line, "events seconds cpu_seconds", from the first event to the COUNTth, and ends.
 */
public final class Fold implements Processor<byte[], byte[], Void, Void> {
    private static final String STORE = "states";
    private static final int STATE_BYTES = 20; // last message, mentions, last mention
    private static final ObjectReader READER = new ObjectMapper().readerFor(Update.class);
    private static final OperatingSystemMXBean SYSTEM =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Update(
        @JsonProperty("type") String type,
        @JsonProperty("user_id") long userId,
        @JsonProperty("channel_id") long channelId,
        @JsonProperty("message_id") long messageId) {}

    private final long count;
    private KeyValueStore<Bytes, byte[]> states;

    private Fold(long count) {
        this.count = count;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
        states = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        Totals.began();
        Update update;
        try {
            update = READER.readValue(record.value());
        } catch (IOException exc) {
            throw new UncheckedIOException(exc);
        }
        Bytes key = Bytes.wrap(ByteBuffer.allocate(16)
            .putLong(update.userId()).putLong(update.channelId()).array());
        byte[] known = states.get(key);
        ByteBuffer before = ByteBuffer.wrap(known == null ? new byte[STATE_BYTES] : known);
        long last = before.getLong();
        int mentions = before.getInt();
        long lastMention = before.getLong();
        long message = update.messageId();
        boolean changed = false;
        if (update.type().equals("mention")) {
            if (message > last && message != lastMention) {
                mentions++;
                lastMention = Math.max(message, lastMention);
                changed = true;
            }
        } else if (message >= last) {
            changed = message != last || (mentions != 0 && message >= lastMention);
            last = message;
            if (message >= lastMention) {
                mentions = 0;
            }
        }
        if (changed) {
            states.put(key, ByteBuffer.allocate(STATE_BYTES)
                .putLong(last).putInt(mentions).putLong(lastMention).array());
        }
        Totals.one(count);
    }

    /** One thread runs the tasks of all partitions, each with a Fold of its own. */
    private static final class Totals {
        private static long seen;
        private static long startedNs;
        private static long startedCpuNs;

        static void began() {
            if (seen == 0) {
                startedNs = System.nanoTime();
                startedCpuNs = SYSTEM.getProcessCpuTime();
            }
        }

        static void one(long count) {
            if (++seen == count) {
                double seconds = (System.nanoTime() - startedNs) / 1e9;
                double cpuSeconds = (SYSTEM.getProcessCpuTime() - startedCpuNs) / 1e9;
                System.out.println(seen + " " + seconds + " " + cpuSeconds);
                System.out.flush();
                Runtime.getRuntime().halt(0);
            }
        }
    }

    public static void main(String[] args) {
        long count = Long.parseLong(args[3]);
        Properties config = new Properties();
        config.putAll(Map.of(
            StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0],
            StreamsConfig.APPLICATION_ID_CONFIG, args[2],
            StreamsConfig.STATE_DIR_CONFIG, args[4],
            StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1,
            StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20,
            StreamsConfig.REPLICATION_FACTOR_CONFIG, 1));
        Topology topology = new Topology();
        topology.addSource("updates", Serdes.ByteArray().deserializer(),
            Serdes.ByteArray().deserializer(), args[1]);
        topology.addProcessor("fold", () -> new Fold(count), "updates");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore(STORE), Serdes.Bytes(), Serdes.ByteArray())
                .withCachingEnabled().withLoggingEnabled(Map.of()),
            "fold");
        KafkaStreams streams = new KafkaStreams(topology, config);
        streams.setUncaughtExceptionHandler(exc -> {
            exc.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
    }
}
