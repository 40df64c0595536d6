import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.requestreply.RequestReplyFuture;
import org.springframework.kafka.support.TopicPartitionOffset;
import org.springframework.kafka.support.TopicPartitionOffset.SeekPosition;

/**
 * Spring Kafka's ReplyingKafkaTemplate, two instances as of two gateways. With
 * -Dshared=true they share the reply topic: each has a group of its own, and ignores the other's
 * replies. Otherwise each has its own partition of it: the template names it in kafka_replyPartition by itself.
 */
final class SpringClient {
    private static final int GATEWAYS = 2;

    /** What the service answers instead of a reply. */
    static final class ReadStatesException extends RuntimeException {
        final String code;

        ReadStatesException(String code, String body) {
            super(body);
            this.code = code;
        }
    }

    private final DefaultKafkaProducerFactory<String, String> producers;
    private final DefaultKafkaConsumerFactory<String, String> consumers;
    private final boolean shared;

    private SpringClient(String bootstrap, boolean shared) {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap);
        StringSerializer text = new StringSerializer();
        producers = new DefaultKafkaProducerFactory<>(config, text, text);
        consumers =
                new DefaultKafkaConsumerFactory<>(
                        config, new StringDeserializer(), new StringDeserializer());
        this.shared = shared;
    }

    public static void main(String[] arguments) throws Exception {
        Common.Plan plan = Common.read(arguments[0]);
        var client = new SpringClient(plan.bootstrap(), Boolean.getBoolean("shared"));
        for (int number = 0; number < plan.steps().size(); number++) {
            Common.Step step = plan.steps().get(number);
            if (step.replies() == null) {
                client.send(step);
            } else {
                client.ask(number, step);
            }
        }
        client.producers.destroy();
    }

    private void send(Common.Step step) {
        var template = new KafkaTemplate<>(producers);
        for (Common.Entry entry : step.records()) {
            template.send(step.topic(), entry.key(), entry.value());
        }
        template.flush();
    }

    private ReplyingKafkaTemplate<String, String, String> gateway(String replies, int number)
            throws InterruptedException {
        var properties =
                shared
                        ? new ContainerProperties(replies)
                        : new ContainerProperties(
                                new TopicPartitionOffset(replies, number, SeekPosition.END));
        properties.setGroupId("gateway-" + number + "-of-" + replies);
        var container = new KafkaMessageListenerContainer<String, String>(consumers, properties);
        var template = new ReplyingKafkaTemplate<>(producers, container);
        template.setSharedReplyTopic(shared);
        template.setDefaultReplyTimeout(Duration.ofSeconds(Common.REPLY_TIMEOUT_S));
        template.setReplyErrorChecker(
                reply -> {
                    var error = reply.headers().lastHeader("read-states-error");
                    return error == null
                            ? null
                            : new ReadStatesException(
                                    new String(error.value(), UTF_8), (String) reply.value());
                });
        template.start();
        if (!template.waitForAssignment(Duration.ofSeconds(Common.REPLY_TIMEOUT_S))) {
            throw new IllegalStateException("no partition of " + replies + " was assigned");
        }
        return template;
    }

    private void ask(int number, Common.Step step) throws Exception {
        List<ReplyingKafkaTemplate<String, String, String>> gateways = new ArrayList<>();
        for (int gateway = 0; gateway < GATEWAYS; gateway++) {
            gateways.add(gateway(step.replies(), gateway));
        }
        List<RequestReplyFuture<String, String, String>> futures = new ArrayList<>();
        for (Common.Entry entry : step.records()) {
            var query = new ProducerRecord<>(step.topic(), entry.key(), entry.value());
            futures.add(gateways.get(futures.size() % GATEWAYS).sendAndReceive(query));
        }
        for (int id = 0; id < futures.size(); id++) {
            try {
                var reply = futures.get(id).get(Common.REPLY_TIMEOUT_S, TimeUnit.SECONDS);
                Common.print(number, id, null, reply.value());
            } catch (ExecutionException failed) {
                if (!(failed.getCause() instanceof ReadStatesException error)) {
                    throw failed;
                }
                Common.print(number, id, error.code, error.getMessage());
            }
        }
        for (var gateway : gateways) {
            gateway.stop();
            gateway.destroy();
        }
    }
}
