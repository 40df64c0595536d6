import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** kafka-clients: its default partitioner is the one that is wanted. */
final class PlainClient {
    public static void main(String[] arguments) throws Exception {
        Common.Plan plan = Common.read(arguments[0]);
        Map<String, Object> config = Map.of("bootstrap.servers", plan.bootstrap());
        StringSerializer text = new StringSerializer();
        for (int number = 0; number < plan.steps().size(); number++) {
            Common.Step step = plan.steps().get(number);
            try (var producer = new KafkaProducer<>(config, text, text)) {
                for (int id = 0; id < step.records().size(); id++) {
                    Common.Entry entry = step.records().get(id);
                    var record = new ProducerRecord<>(step.topic(), entry.key(), entry.value());
                    if (step.replies() != null) {
                        record.headers().add("kafka_replyTopic", step.replies().getBytes(UTF_8));
                        record.headers().add("kafka_correlationId", String.valueOf(id).getBytes(UTF_8));
                    }
                    producer.send(record);
                }
            }
            if (step.replies() != null) {
                read(config, number, step);
            }
        }
    }

    private static void read(Map<String, Object> config, int number, Common.Step step)
            throws Exception {
        StringDeserializer text = new StringDeserializer();
        Set<Integer> seen = new HashSet<>();
        long end = System.nanoTime() + Duration.ofSeconds(Common.REPLY_TIMEOUT_S).toNanos();
        try (var consumer = new KafkaConsumer<>(config, text, text)) {
            var partition = new TopicPartition(step.replies(), 0); // the topic has no other one
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            while (seen.size() < step.records().size()) {
                if (System.nanoTime() > end) {
                    throw new IllegalStateException(seen.size() + " replies came");
                }
                for (var reply : consumer.poll(Duration.ofSeconds(1))) {
                    var correlation = reply.headers().lastHeader("kafka_correlationId").value();
                    int id = Integer.parseInt(new String(correlation, UTF_8));
                    var error = reply.headers().lastHeader("read-states-error");
                    String code = error == null ? null : new String(error.value(), UTF_8);
                    if (seen.add(id)) {
                        Common.print(number, id, code, reply.value());
                    }
                }
            }
        }
    }
}
