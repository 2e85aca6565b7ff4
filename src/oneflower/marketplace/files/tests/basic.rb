require 'json'
require_relative '../../../lib/community/app_handler'

# The machine is booted as a SuperLink of its own, outside a service.
describe 'Flower federation' do
    include_context('vm_handler')

    def wait_for(seconds)
        deadline = Time.now + seconds
        loop do
            found = yield
            return found if found
            raise "not within #{seconds} seconds" if Time.now > deadline

            sleep 2
        end
    end

    it 'has the agent, with its own user' do
        @info[:vm].ssh('test -x /opt/oneflower/bin/oneflower-agent').expect_success
        @info[:vm].ssh('id oneflower').expect_success
        @info[:vm].ssh('systemctl is-enabled oneflower-agent.service').expect_success
    end

    it 'has the release of Flower that it says' do
        found = @info[:vm].ssh('/opt/oneflower/bin/flower-superlink --version')
        expect(found.stdout).to include('@FLOWER@')
    end

    it 'reads its role from the context' do
        cmd = '/opt/oneflower/bin/oneflower-agent status --json'
        state = wait_for(120) do
            said = @info[:vm].ssh(cmd).stdout
            said.start_with?('{') && JSON.parse(said)
        end
        expect(state['role']).to eq('superlink')
    end

    it 'opens the port for SuperNodes, and the one for runs on loopback only' do
        listening = wait_for(300) do
            said = @info[:vm].ssh("ss -Hltn '( sport = 9092 or sport = 8000 )'").stdout
            said.include?(':9092') && said.include?(':8000') && said
        end
        control = listening.lines.select {|line| line.split[3].end_with?(':8000') }
        expect(control).to all(include('127.0.0.1:8000'))
    end

    it 'keeps its keys to itself' do
        found = @info[:vm].ssh('find /var/lib/oneflower -name "*.key" -perm /077')
        expect(found.stdout.strip).to be_empty
    end

    it 'lets nobody in with a password' do
        found = @info[:vm].ssh('sshd -T')
        expect(found.stdout).to include('passwordauthentication no')
    end
end
